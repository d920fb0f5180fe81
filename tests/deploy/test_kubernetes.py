"""The manifests, checked without a cluster against Kubernetes' schemas and the code that they start.

kustomize does not run here; the tests resolve resources by file and patches by name themselves.
"""

import ipaddress
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import yaml
from typer.main import get_command

from core.service.config import UPLOAD_FORM_BYTES, Settings
from core.service.db.schema import upgrade
from core.service.db.session import Database
from core.service.tenancy import SYSTEM
from local.commands import train_app
from tests import services
from tests.core.service.rows import add_generation, tenant_with_domain
from tests.deploy.test_compose import OURS
from worker.context import KERNEL_BYTES

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import kubernetes_validate

FOLDER = Path(__file__).parents[2] / "deploy/kubernetes"
BASE, GPU, KEDA, TRAIN, BACKUP = (FOLDER / name for name in ("base", "gpu", "keda", "train", "backup"))
SETTINGS = {f"DIFFFIT_{name.upper()}" for name in Settings.model_fields}
STORE_PORTS = {8333, 443}
OF_BOTO = {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"}


def kustomization(folder: Path) -> dict[str, Any]:
    parsed: dict[str, Any] = yaml.safe_load((folder / "kustomization.yaml").read_text())
    return parsed


def documents(folder: Path) -> Iterator[dict[str, Any]]:
    for name in kustomization(folder)["resources"]:
        path = (folder / name).resolve()
        assert path.exists(), name
        yield from documents(path) if path.is_dir() else yaml.safe_load_all(path.read_text())


def merged(document: Any, patch: Any) -> Any:
    """Returns the strategic merge: mappings by key, lists of named items by name."""
    if isinstance(document, dict) and isinstance(patch, dict):
        return document | {key: merged(document.get(key), value) for key, value in patch.items()}
    if isinstance(document, list) and isinstance(patch, list) and all("name" in item for item in patch):
        changes = {item["name"]: item for item in patch}
        return [merged(item, changes.get(item["name"], {})) for item in document]
    return patch


def on_gpus() -> Iterator[dict[str, Any]]:
    patches = [yaml.safe_load((GPU / patch["path"]).read_text()) for patch in kustomization(GPU)["patches"]]
    for document in documents(GPU):
        for patch in patches:
            if (patch["kind"], patch["metadata"]) == (document["kind"], document["metadata"]):
                document = merged(document, patch)
        yield document


SERVER = {"base": list(documents(BASE)), "gpu": list(on_gpus())}
VARIANTS = SERVER | {"train": list(documents(TRAIN)), "backup": list(documents(BACKUP))}
COPYING = list(yaml.safe_load_all((TRAIN / "images.yaml").read_text()))
"""Manifests of train/ that kustomize does not apply."""
PODS = {
    (variant, document["metadata"]["name"]): spec["template"]
    for variant, manifests in VARIANTS.items()
    for document in manifests
    if "template" in (spec := document.get("spec", {}).get("jobTemplate", document).get("spec", {}))
}

SERVICE_PODS = {key: pod for key, pod in PODS.items() if key[0] in SERVER}


def of_kind(variant: str, kind: str) -> list[dict[str, Any]]:
    return [manifest for manifest in VARIANTS[variant] if manifest["kind"] == kind]


@pytest.mark.parametrize("manifests", [*VARIANTS.values(), COPYING], ids=[*VARIANTS, "copying"])
def test_manifests_match_kubernetes_schemas(manifests: list[dict[str, Any]]) -> None:
    for document in manifests:
        kubernetes_validate.validate(document, "1.34", strict=True)


def test_schemas_reject_a_wrong_manifest() -> None:
    (job,) = of_kind("base", "Job")
    broken = merged(job, {"spec": {"template": {"spec": {"containres": []}}}})
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, "1.34", strict=True)


@pytest.mark.parametrize("pod", [*PODS.values(), COPYING[-1]], ids=[*map(" ".join, PODS), "copying"])
def test_pods_have_few_privileges(pod: dict[str, Any]) -> None:
    spec = pod["spec"]
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["automountServiceAccountToken"] is False
    (container,) = spec["containers"]
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert container["securityContext"]["allowPrivilegeEscalation"] is False
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert set(container["resources"]["requests"]) >= {"cpu", "memory"}
    assert container["resources"]["limits"]["memory"]
    for volume in spec["volumes"]:
        assert "persistentVolumeClaim" in volume or volume["emptyDir"]["sizeLimit"]
    assert {item["name"] for item in container["volumeMounts"]} == {item["name"] for item in spec["volumes"]}


@pytest.mark.parametrize("pod", SERVICE_PODS.values(), ids=map(" ".join, SERVICE_PODS))
def test_pods_get_no_variables_of_services_that_look_like_settings(pod: dict[str, Any]) -> None:
    assert pod["spec"]["enableServiceLinks"] is False


@pytest.mark.parametrize("variant", SERVER)
def test_long_running_pods_have_probes_and_can_be_moved(variant: str) -> None:
    kept = {manifest["metadata"]["name"] for manifest in of_kind(variant, "Deployment")}
    assert kept == {"difffit-api", "difffit-worker"}
    assert kept == {manifest["metadata"]["name"] for manifest in of_kind(variant, "PodDisruptionBudget")}
    for name in kept:
        (container,) = PODS[variant, name]["spec"]["containers"]
        assert {"startupProbe", "livenessProbe"} <= set(container)
    assert PODS[variant, "difffit-worker"]["spec"]["terminationGracePeriodSeconds"] == 120


@pytest.mark.parametrize("variant", VARIANTS)
def test_pods_accept_connections_only_on_their_ports(variant: str) -> None:
    """Expects a network policy for each pod that selects it by name."""
    open_ports = {
        manifest["spec"]["podSelector"]["matchLabels"]["app.kubernetes.io/name"]: {
            port["port"] for rule in manifest["spec"].get("ingress", []) for port in rule["ports"]
        }
        for manifest in of_kind(variant, "NetworkPolicy")
    }
    for (of, name), pod in PODS.items():
        if of == variant:
            (container,) = pod["spec"]["containers"]
            assert open_ports[name] == {port["containerPort"] for port in container.get("ports", [])}


@pytest.mark.parametrize(("variant", "name"), PODS)
def test_pods_reach_only_the_ports_in_their_settings(variant: str, name: str) -> None:
    (policy,) = (row["spec"] for row in of_kind(variant, "NetworkPolicy") if row["metadata"]["name"] == name)
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    anywhere = {port["port"] for rule in policy["egress"] if "to" not in rule for port in rule["ports"]}
    assert 53 in anywhere
    needed = {
        "difffit-migrate": {5432},
        "difffit-api": {5432, 6379, *STORE_PORTS, 4318},
        "difffit-worker": {5432, 6379, *STORE_PORTS, 4318},
        "difffit-train": {443},
        "difffit-backup": {5432, *STORE_PORTS},
    }
    assert anywhere == {53, *needed[name]}
    internet = [block["ipBlock"] for rule in policy["egress"] for block in rule.get("to", [])]
    assert bool(internet) == (name == "difffit-worker")
    for block in internet:
        networks = [ipaddress.ip_network(block["cidr"]), *map(ipaddress.ip_network, block.get("except", []))]
        for address in ("10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "127.0.0.1", "fd00::1", "fe80::1"):
            assert sum(ipaddress.ip_address(address) in network for network in networks) in {0, 2}, address


def test_policies_open_the_examples_ports() -> None:
    example = (BASE / "secret.example.env").read_text()
    config = of_kind("base", "ConfigMap")[0]["data"]
    assert set(re.findall(r"@\w+:(\d+)/", example)) == {"5432", "6379"}
    assert int(config["DIFFFIT_S3_ENDPOINT_URL"].rpartition(":")[2]) in STORE_PORTS


def test_secrets_of_the_example_are_placeholders() -> None:
    example = dict(re.findall(r"^(\w+)=(.*)$", (BASE / "secret.example.env").read_text(), re.MULTILINE))
    assert all("replace-me" in value for value in example.values())


def test_api_scratch_volume_fits_its_spooled_uploads() -> None:
    for variant in SERVER:
        (scratch,) = PODS[variant, "difffit-api"]["spec"]["volumes"]
        (container,) = PODS[variant, "difffit-api"]["spec"]["containers"]
        size = int(scratch["emptyDir"]["sizeLimit"].removesuffix("Gi")) * 2**30
        assert size >= Settings.model_fields["max_spooled_bytes"].default + 2**27
        assert int(container["resources"]["limits"]["ephemeral-storage"].removesuffix("Gi")) * 2**30 > size


def test_worker_scratch_volume_fits_its_compiled_kernels() -> None:
    for variant in SERVER:
        volumes = {volume["name"]: volume for volume in PODS[variant, "difffit-worker"]["spec"]["volumes"]}
        assert int(volumes["scratch"]["emptyDir"]["sizeLimit"].removesuffix("Gi")) * 2**30 >= 2 * KERNEL_BYTES


@pytest.mark.parametrize("name", ["DIFFFIT_ADMIN_KEY", "DIFFFIT_URL_SECRET"])
def test_api_rejects_the_examples_secrets(name: str) -> None:
    (value,) = re.findall(rf"^{name}=(.*)$", (BASE / "secret.example.env").read_text(), re.MULTILINE)
    with pytest.raises(ValueError, match="at least 32 characters"):
        Settings(**{name.removeprefix("DIFFFIT_").lower(): value})


def test_manifests_behind_a_proxy_name_trusted_proxies() -> None:
    config = of_kind("base", "ConfigMap")[0]["data"]
    assert {"DIFFFIT_TRUSTED_PROXIES", "DIFFFIT_PUBLIC_URL"} <= set(config)
    for name in ("api", "api-embedded"):
        assert OURS[name]["environment"]["DIFFFIT_TRUSTED_PROXIES"] == "${DIFFFIT_TRUSTED_PROXIES:-}"


def test_backups_are_saved_by_the_owner_into_a_new_folder_of_the_claim() -> None:
    (container,) = PODS["backup", "difffit-backup"]["spec"]["containers"]
    shell, option, command = container["command"]
    assert (shell, option) == ("sh", "-c")
    assert command.startswith("exec python -m core.service.backup save /backups/$(date ")
    migrate = PODS["base", "difffit-migrate"]["spec"]["containers"][0]
    of_aws = [variable for variable in container["env"] if variable["name"] in OF_BOTO]
    assert container["env"] == [*migrate["env"], *of_aws]
    assert len(of_aws) == len(OF_BOTO)
    assert container["envFrom"] == migrate["envFrom"]


def test_example_ingress_leads_to_the_api_with_its_limits() -> None:
    main, health = yaml.safe_load_all((FOLDER / "ingress.example.yaml").read_text())
    (service,) = of_kind("base", "Service")
    for document in (main, health):
        kubernetes_validate.validate(document, "1.34", strict=True)
        (rule,) = document["spec"]["rules"]
        for path in rule["http"]["paths"]:
            backend = path["backend"]["service"]
            assert backend["name"] == service["metadata"]["name"]
            assert backend["port"]["name"] in {port["name"] for port in service["spec"]["ports"]}
    annotations = {name.rpartition("/")[2]: value for name, value in main["metadata"]["annotations"].items()}
    limit = int(annotations["proxy-body-size"].removesuffix("m")) * 2**20
    assert limit == Settings.model_fields["max_upload_bytes"].default + UPLOAD_FORM_BYTES
    assert int(annotations["proxy-read-timeout"]) > 60
    assert {annotations["proxy-buffering"], annotations["proxy-request-buffering"]} == {"off"}


def test_finetune_over_several_gpus_has_one_process_per_gpu() -> None:
    """Expects the command that `tests/client/test_local.py` runs with two processes."""
    (container,) = PODS["train", "difffit-train"]["spec"]["containers"]
    command = [*container["command"], *container["args"]]
    launch = ["python", "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "difffit", "train"]
    assert command[: len(launch)] == launch
    assert "--distributed" in command
    assert container["resources"]["limits"]["nvidia.com/gpu"] == 2
    assert {variable["name"] for variable in container["env"]} <= SETTINGS
    assert "COPY client client" in (FOLDER.parent / "docker/worker.Dockerfile").read_text()
    options = get_command(train_app).make_context("train", [str(FOLDER), *command[len(launch) + 1 :]]).params
    assert (options["distributed"], options["batch_size"] % 2) == (True, 0)


@pytest.mark.parametrize("pod", SERVICE_PODS.values(), ids=map(" ".join, SERVICE_PODS))
def test_pods_run_composes_commands_with_existing_settings(pod: dict[str, Any]) -> None:
    (container,) = pod["spec"]["containers"]
    assert container["command"] in [service.get("command") for service in OURS.values()]
    config = of_kind("base", "ConfigMap")[0]["data"]
    own = {variable["name"]: variable["valueFrom"]["secretKeyRef"] for variable in container["env"]}
    assert set(config) | set(own) <= SETTINGS | OF_BOTO
    given = set(re.findall(r"^(\w+)=", (BASE / "secret.example.env").read_text(), re.MULTILINE))
    assert {reference["key"] for reference in own.values()} <= given
    assert {reference["name"] for reference in own.values()} == {"difffit"}
    assert not any(re.search("PASSWORD|SECRET|KEY|DATABASE|BROKER", name) for name in config)


def test_each_part_connects_as_its_own_role() -> None:
    urls = {}
    for (_, name), pod in SERVICE_PODS.items():
        (container,) = pod["spec"]["containers"]
        (variable,) = [variable for variable in container["env"] if "DATABASE" in variable["name"]]
        key = variable["valueFrom"]["secretKeyRef"]["key"]
        urls[name] = key.removeprefix("DIFFFIT_").removesuffix("DATABASE_URL").strip("_")
    assert urls == {"difffit-migrate": "OWNER", "difffit-api": "", "difffit-worker": "WORKER"}


@pytest.mark.parametrize("variant", VARIANTS)
def test_selectors_find_their_pods(variant: str) -> None:
    labels = {name: pod["metadata"]["labels"] for (of, name), pod in PODS.items() if of == variant}
    for document in VARIANTS[variant]:
        spec = document.get("spec", {})
        for field in ("selector", "podSelector"):
            wanted = spec.get(field, {}).get("matchLabels", spec.get(field)) if field in spec else None
            assert wanted is None or wanted in labels.values()


def test_patches_refer_to_existing_objects() -> None:
    names = {(manifest["kind"], manifest["metadata"]["name"]) for manifest in VARIANTS["base"]}
    for patch in kustomization(GPU)["patches"]:
        document = yaml.safe_load((GPU / patch["path"]).read_text())
        assert (document["kind"], document["metadata"]["name"]) in names
    (container,) = PODS["gpu", "difffit-worker"]["spec"]["containers"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert container["command"] == ["python", "-m", "worker"]


def test_workers_on_gpus_need_no_free_gpu_for_an_update_and_never_take_the_cpu() -> None:
    (worker,) = (row for row in of_kind("gpu", "Deployment") if row["metadata"]["name"] == "difffit-worker")
    assert worker["spec"]["strategy"] == {"rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}}
    assert of_kind("gpu", "ConfigMap")[0]["data"]["DIFFFIT_DEVICE"] == "cuda"


def test_ports_are_those_that_the_services_listen_on() -> None:
    (api,), (worker,) = (PODS["base", f"difffit-{name}"]["spec"]["containers"] for name in ("api", "worker"))
    config = of_kind("base", "ConfigMap")[0]["data"]
    assert api["ports"][0]["containerPort"] == Settings.model_fields["port"].default
    assert str(api["ports"][1]["containerPort"]) == config["DIFFFIT_API_METRICS_PORT"]
    assert str(worker["ports"][0]["containerPort"]) == config["DIFFFIT_METRICS_PORT"]


def test_keda_objects_refer_to_existing_objects() -> None:
    authentication, scaled = documents(KEDA)
    assert (authentication["kind"], scaled["kind"]) == ("TriggerAuthentication", "ScaledObject")
    assert {manifest["apiVersion"] for manifest in (authentication, scaled)} == {"keda.sh/v1alpha1"}
    assert ("base", scaled["spec"]["scaleTargetRef"]["name"]) in PODS
    assert scaled["spec"]["minReplicaCount"] <= scaled["spec"]["maxReplicaCount"]
    for trigger in scaled["spec"]["triggers"]:
        assert trigger["type"] == "postgresql"
        assert trigger["authenticationRef"]["name"] == authentication["metadata"]["name"]
    (secret,) = authentication["spec"]["secretTargetRef"]
    assert re.search(rf"^{secret['key']}=", (BASE / "secret.example.env").read_text(), re.MULTILINE)


def test_keda_queries_count_the_jobs_of_all_tenants(postgres_server: services.Postgres) -> None:
    """Connects as the workers' role. Only the connection options of the example make all tenants visible."""
    name = "keda"
    url = postgres_server.create(name)
    try:
        upgrade(url)
        worker_url = services.as_role(url, services.WORKER)
        database = Database(worker_url, SYSTEM)
        for tenant in ("one", "two"):
            scope, domain = tenant_with_domain(database, tenant)
            with database.session(scope) as session:
                add_generation(session, scope, domain, count=3)
        database.dispose()
        example = re.search(r"^KEDA_DATABASE_URL=\S+\?(\S+)$", (BASE / "secret.example.env").read_text(), re.MULTILINE)
        assert example is not None
        joint = "&" if "?" in worker_url else "?"
        plain = worker_url.replace("postgresql+psycopg://", "postgresql://")
        *_, scaled = documents(KEDA)
        queries = [trigger["metadata"]["query"] for trigger in scaled["spec"]["triggers"]]
        with psycopg.connect(f"{plain}{joint}{example[1]}") as connection:
            counts = [connection.execute(query).fetchone() for query in queries]
        assert counts == [(6,), (0,)]
        with psycopg.connect(plain) as connection:
            assert connection.execute(queries[0]).fetchone() == (0,)
    finally:
        postgres_server.drop(name)
