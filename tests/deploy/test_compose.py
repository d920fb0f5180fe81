"""The compose file and the images, checked without docker against the specification's schema and the files here.

The main job's test runs the commands as processes, `test_probes.py` the health checks, and `make images` the
Dockerfiles."""

import configparser
import fnmatch
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
COMPOSE = (ROOT / "docker-compose.yml").read_text()
SERVICES: dict[str, dict[str, Any]] = yaml.safe_load(COMPOSE)["services"]
OURS = {name: service for name, service in SERVICES.items() if "build" in service}
JOBS = {"backup", "bucket", "migrate", "roles"}
DOCKERFILES = sorted((ROOT / "deploy/docker").glob("*.Dockerfile"))


def test_compose_file_matches_the_specification() -> None:
    """Validates by the schema in check-jsonschema."""
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    subprocess.run([*command, str(ROOT / "docker-compose.yml")], check=True)


@pytest.mark.parametrize(
    ("profile", "names"),
    [
        ("embedded", {"api-embedded", "worker-embedded"}),
        ("full", {"postgres", "redis", "storage", "roles", "bucket", "migrate", "api", "worker"}),
        ("gpu", {"postgres", "redis", "storage", "roles", "bucket", "migrate", "api", "worker-gpu"}),
        ("gpu-1", {"worker-gpu-1"}),
        ("backup", {"backup"}),
        ("monitoring", {"prometheus", "grafana"}),
    ],
)
def test_profiles_start_the_services_they_need(profile: str, names: set[str]) -> None:
    started = {name for name, service in SERVICES.items() if profile in service["profiles"]}
    assert started == names
    if profile != "gpu-1":  # in addition to `gpu`
        assert {need for name in started for need in SERVICES[name].get("depends_on", {})} <= started


def test_commands_are_those_that_the_main_job_test_runs() -> None:
    commands = {tuple(service["command"]) for name, service in OURS.items() if name != "backup"}
    assert commands == {("python", "-m", module) for module in ("api", "worker", "migrations", "core.service.storage")}
    checks = {tuple(service["healthcheck"]["test"]) for name, service in OURS.items() if name not in JOBS}
    assert checks == {tuple(OURS[name]["healthcheck"]["test"]) for name in ("api", "worker")}


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_mounted_files_exist(name: str) -> None:
    for volume in SERVICES[name].get("volumes", []):
        if volume.startswith("./") and volume != "./backups:/backups":  # which the operator makes
            assert (ROOT / volume.split(":")[0]).exists(), volume


def test_settings_reach_our_services_only() -> None:
    """The file holds settings that compose does not set, and neither git nor an image contains it."""
    for name, service in SERVICES.items():
        expected = [{"path": "settings.env", "required": False}] if name in OURS else None
        assert service.get("env_file") == expected, name
    for ignoring in (".gitignore", ".dockerignore"):
        assert "settings.env" in {line.lstrip("/") for line in (ROOT / ignoring).read_text().splitlines()}


def test_each_gpu_has_its_own_worker() -> None:
    first, second = (dict(OURS[name]["environment"]) for name in ("worker-gpu", "worker-gpu-1"))
    assert (first.pop("CUDA_VISIBLE_DEVICES"), second.pop("CUDA_VISIBLE_DEVICES")) == ("0", "1")
    assert first == second


PATCHED = {"python": (3, 11, 14), "redis": (8, 2, 9), "postgres": (18, 7)}
"""Requires the first releases without CVE-2025-8291 (zipfile), CVE-2026-81934 and CVE-2026-6460."""


def test_images_are_pinned_to_patched_releases() -> None:
    images = [service["image"] for name, service in SERVICES.items() if name not in OURS]
    text = "\n".join(path.read_text() for path in DOCKERFILES)
    stages = set(re.findall(r"^FROM \S+ AS (\S+)$", text, re.MULTILINE))
    for image in {*images, *re.findall(r"^FROM (\S+)", text, re.MULTILINE)} - stages:
        match = re.fullmatch(r"([\w/]+):v?([\d.]+)(-[\w.-]+)?(@sha256:[0-9a-f]{64})?", image)
        assert match is not None, image
        version = tuple(map(int, match[2].split(".")))
        assert version >= PATCHED.get(match[1], (0,)), image
        assert len(version) == (2 if match[1] in {"postgres", "chrislusf/seaweedfs"} else 3), image


@pytest.mark.parametrize("name", sorted(set(SERVICES) - JOBS))
def test_long_running_services_have_health_checks_and_restart(name: str) -> None:
    assert SERVICES[name]["healthcheck"]["test"]
    assert SERVICES[name]["restart"] == "unless-stopped"
    if "worker" in name:
        assert SERVICES[name]["stop_grace_period"] == "2m"


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_containers_have_few_privileges_and_limits(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["mem_limit"]
    assert service["pids_limit"] == (4096 if name.startswith("worker") else 512)
    assert not (name in OURS and "cap_add" in service)


@pytest.mark.parametrize("name", sorted(OURS))
def test_containers_write_large_files_to_disk(name: str) -> None:
    service = OURS[name]
    mounts = {volume.split(":")[1] for volume in service.get("volumes", [])}
    tmpfs = service.get("tmpfs", [])
    assert tmpfs == (["/tmp:size=64m"] if name in JOBS else [])
    assert "/tmp" in mounts or tmpfs
    dockerfile = (ROOT / service["build"]["dockerfile"]).read_text()
    assert re.search(r"^USER [1-9]\d*$", dockerfile, re.MULTILINE)
    owned = re.search(r"chown \d+ (.+)$", dockerfile, re.MULTILINE)
    assert owned is not None
    assert mounts - {"/tmp", "/backups"} <= set(owned[1].split())  # a folder of the host, which the operator owns


def test_backup_has_client_programs_of_the_servers_version_and_the_owners_settings() -> None:
    backup = OURS["backup"]
    text = (ROOT / backup["build"]["dockerfile"]).read_text()
    (stage,) = re.findall(rf"^FROM app AS {backup['build']['target']}\n(.*?)^FROM app$", text, re.MULTILINE | re.DOTALL)
    version = re.search(r"^postgres:(\d+)", SERVICES["postgres"]["image"])
    assert version is not None
    assert f" postgresql-client-{version[1]} " in stage
    assert stage.endswith('USER 10001\nENTRYPOINT ["python", "-m", "core.service.backup"]\nCMD ["--help"]\n\n')
    assert backup["environment"] == OURS["migrate"]["environment"]
    assert "command" not in backup


def test_workers_on_one_machine_have_a_scratch_volume_each() -> None:
    scratch = [volume for name in ("api", "worker-gpu", "worker-gpu-1") for volume in OURS[name]["volumes"]]
    assert len({volume for volume in scratch if volume.endswith(":/tmp")}) == 3


def test_ports_are_published_only_on_localhost() -> None:
    ports = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert all(port.startswith(("127.0.0.1:", "${PUBLISH_ADDRESS:-127.0.0.1}:")) for port in ports)
    assert "PUBLISH_ADDRESS=127.0.0.1\n" in (ROOT / "deploy/compose.env.example").read_text()


def test_servers_are_in_a_network_without_internet_access() -> None:
    assert yaml.safe_load(COMPOSE)["networks"] == {"data": {"internal": True}}
    for name in ("postgres", "redis", "storage", *JOBS):
        assert SERVICES[name]["networks"] == ["data"]
        assert "ports" not in SERVICES[name]
    for name in ("prometheus", "grafana", "api-embedded", "worker-embedded"):
        assert SERVICES[name]["networks"] == ["default"]


def test_store_requires_a_password_in_its_network() -> None:
    command = SERVICES["storage"]["command"]
    assert {"-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-s3.ip.bind=0.0.0.0"} <= set(command)


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_dockerfiles_copy_existing_files(path: Path) -> None:
    ignored = (ROOT / ".dockerignore").read_text().split()
    sources = [part for line in re.findall(r"^COPY (.+) \S+$", path.read_text(), re.MULTILINE) for part in line.split()]
    assert sources
    for source in sources:
        assert (ROOT / source).exists(), source
        assert not any(fnmatch.fnmatch(source, pattern.removeprefix("**/")) for pattern in ignored), source


@pytest.mark.parametrize("index", ["", "https://pytorch.example/whl/cu126", "https://pytorch.example/whl/cpu"])
def test_worker_image_has_a_compiler_unless_torch_is_for_the_cpu(index: str, tmp_path: Path) -> None:
    """Runs the Dockerfile's command with an `apt-get` that prints its arguments."""
    text = (ROOT / "deploy/docker/worker.Dockerfile").read_text().replace("\\\n", " ")
    (command,) = re.findall(r"^RUN (.*apt-get install.*) && rm -rf", text, re.MULTILINE)
    (tmp_path / "apt-get").write_text('#!/bin/sh\necho "$@"\n')
    (tmp_path / "apt-get").chmod(0o755)
    variables = {"PATH": f"{tmp_path}:/usr/bin:/bin", "TORCH_INDEX": index}
    output = subprocess.run(["sh", "-c", command], env=variables, capture_output=True, text=True, check=True).stdout
    assert ("gcc" in output) == (not index.endswith("/cpu"))


def test_no_secret_has_a_default() -> None:
    secrets = [line for line in COMPOSE.splitlines() if re.search("PASSWORD|SECRET|ACCESS_KEY|ADMIN_KEY", line)]
    values = [match for line in secrets for match in re.findall(r"\$\{(\w+)(:?[-?][^}]*)?\}", line)]
    assert values
    assert all(rest.startswith(":?") for name, rest in values if name != "DIFFFIT_DATABASE_URL")
    example = (ROOT / "deploy/compose.env.example").read_text()
    assert {name for name, _ in values} <= set(re.findall(r"^(\w+)=", example, re.MULTILINE))


def test_script_generates_every_secret() -> None:
    command = ["sh", ROOT / "deploy/new-env.sh"]
    first, second = (
        dict(re.findall(r"^(\w+)=(.*)$", subprocess.check_output(command, text=True), re.MULTILINE)) for _ in range(2)
    )
    required = set(re.findall(r"\$\{(\w+):\?", COMPOSE))
    assert all(len(first[name]) >= 32 for name in required)
    assert len({first[name] for name in required} | {second[name] for name in required}) == 2 * len(required)


@pytest.mark.parametrize(
    ("name", "role"), [("migrate", "owner"), ("api", "api"), ("worker", "worker"), ("worker-gpu", "worker")]
)
def test_each_part_connects_as_its_own_role_with_the_password_that_role_gets(name: str, role: str) -> None:
    password = SERVICES["roles"]["environment"][f"{role.upper()}_PASSWORD"]
    url = OURS[name]["environment"]["DIFFFIT_DATABASE_URL"]
    assert url == f"postgresql://difffit_{role}:{password}@postgres:5432/difffit"
    script = (ROOT / "deploy/postgres/roles.sql").read_text()
    assert f"ALTER ROLE difffit_{role} PASSWORD :'{role}_password'" in script
    assert f"\\getenv {role}_password {role.upper()}_PASSWORD" in script


@pytest.mark.parametrize("module", ["api", "worker"])
def test_systemd_starts_what_compose_starts_and_restarts_it(module: str) -> None:
    text = (ROOT / f"deploy/systemd/difffit-{module}.service").read_text()
    unit = configparser.RawConfigParser(strict=True)
    unit.optionxform = str  # type: ignore[assignment,method-assign]  # keys keep their case
    unit.read_string(text)
    service = unit["Service"]
    assert service["ExecStart"].split("/")[-1].split() == OURS[module]["command"]
    assert (service["Restart"], service["RestartMaxDelaySec"]) == ("always", "60")
    assert int(service["TimeoutStopSec"]) == {"api": 30, "worker": 120}[module]
    assert int(service["TasksMax"]) == OURS[module].get("pids_limit", 512)
    assert {"MemoryMax", "TasksMax", "NoNewPrivileges", "CapabilityBoundingSet", "ProtectSystem"} <= set(service)
