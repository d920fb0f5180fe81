"""The compose file and the images, without docker: valid by the specification's schema, true to the tree. The commands
and health checks of our services are run as processes by the main job's test."""

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
JOBS = {"bucket", "migrate", "roles"}
DOCKERFILES = sorted((ROOT / "deploy/docker").glob("*.Dockerfile"))


def test_it_is_what_the_specification_takes() -> None:
    """By the schema that check-jsonschema brings."""
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    subprocess.run([*command, str(ROOT / "docker-compose.yml")], check=True)


@pytest.mark.parametrize(
    ("profile", "names"),
    [
        ("embedded", {"api-embedded", "worker-embedded"}),
        ("full", {"postgres", "redis", "storage", "roles", "bucket", "migrate", "api", "worker"}),
        ("gpu", {"postgres", "redis", "storage", "roles", "bucket", "migrate", "api", "worker-gpu"}),
        ("gpu-1", {"worker-gpu-1"}),
        ("monitoring", {"prometheus", "grafana"}),
    ],
)
def test_a_profile_starts_what_it_needs(profile: str, names: set[str]) -> None:
    started = {name for name, service in SERVICES.items() if profile in service["profiles"]}
    assert started == names
    if profile != "gpu-1":  # beside `gpu`
        assert {need for name in started for need in SERVICES[name].get("depends_on", {})} <= started


def test_our_commands_are_those_that_the_main_job_runs() -> None:
    commands = {tuple(service["command"]) for service in OURS.values()}
    assert commands == {("python", "-m", module) for module in ("api", "worker", "migrations", "core.storage")}
    checks = {tuple(service["healthcheck"]["test"]) for name, service in OURS.items() if name not in JOBS}
    assert checks == {tuple(OURS[name]["healthcheck"]["test"]) for name in ("api", "worker")}


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_what_is_mounted_is_there(name: str) -> None:
    for volume in SERVICES[name].get("volumes", []):
        assert not volume.startswith("./") or (ROOT / volume.split(":")[0]).exists(), volume


def test_each_gpu_has_a_worker_of_its_own() -> None:
    first, second = (dict(OURS[name]["environment"]) for name in ("worker-gpu", "worker-gpu-1"))
    assert (first.pop("CUDA_VISIBLE_DEVICES"), second.pop("CUDA_VISIBLE_DEVICES")) == ("0", "1")
    assert first == second


def test_what_is_not_ours_is_pinned() -> None:
    images = [service["image"] for name, service in SERVICES.items() if name not in OURS]
    images += [line.split()[1] for path in DOCKERFILES for line in path.read_text().splitlines() if line[:4] == "FROM"]
    assert all(re.search(r":v?\d+\.\d+", image) for image in images), images


@pytest.mark.parametrize("name", sorted(set(SERVICES) - JOBS))
def test_what_keeps_running_has_a_health_check(name: str) -> None:
    assert SERVICES[name]["healthcheck"]["test"]


@pytest.mark.parametrize("name", sorted(OURS))
def test_our_containers_can_do_little(name: str) -> None:
    service = OURS[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    dockerfile = (ROOT / service["build"]["dockerfile"]).read_text()
    assert re.search(r"^USER [1-9]\d*$", dockerfile, re.MULTILINE)
    owned = re.search(r"mkdir (.+) && chown \d+ (.+)$", dockerfile, re.MULTILINE)
    assert owned is not None
    assert {volume.split(":")[1] for volume in service.get("volumes", [])} <= set(owned[2].split())


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_an_image_is_made_of_what_is_there(path: Path) -> None:
    ignored = (ROOT / ".dockerignore").read_text().split()
    sources = [part for line in re.findall(r"^COPY (.+) \S+$", path.read_text(), re.MULTILINE) for part in line.split()]
    assert sources
    for source in sources:
        assert (ROOT / source).exists(), source
        assert not any(fnmatch.fnmatch(source, pattern.removeprefix("**/")) for pattern in ignored), source
    version = re.search(r"^FROM python:(\d+)\.(\d+)\.", path.read_text(), re.MULTILINE)
    assert version is not None
    assert (int(version[1]), int(version[2])) >= (3, 11)


def test_no_secret_has_a_default() -> None:
    secrets = [line for line in COMPOSE.splitlines() if re.search("PASSWORD|SECRET|ACCESS_KEY|ADMIN_KEY", line)]
    values = [match for line in secrets for match in re.findall(r"\$\{(\w+)(:?[-?][^}]*)?\}", line)]
    assert values
    assert all(rest.startswith(":?") for name, rest in values if name != "DIFFFIT_DATABASE_URL")
    example = (ROOT / "deploy/compose.env.example").read_text()
    assert {name for name, _ in values} <= set(re.findall(r"^(\w+)=", example, re.MULTILINE))


def test_the_script_makes_every_secret() -> None:
    command = ["sh", ROOT / "deploy/new-env.sh"]
    made, again = (
        dict(re.findall(r"^(\w+)=(.*)$", subprocess.check_output(command, text=True), re.MULTILINE)) for _ in range(2)
    )
    required = set(re.findall(r"\$\{(\w+):\?", COMPOSE))
    assert all(len(made[name]) >= 32 for name in required)
    assert len({made[name] for name in required} | {again[name] for name in required}) == 2 * len(required)


def test_the_api_image_has_no_torch() -> None:
    """`make check-api-image` installs what it installs."""
    dockerfile = (ROOT / OURS["api"]["build"]["dockerfile"]).read_text()
    install = "pip install --constraint requirements.lock --editable ."
    assert f"RUN {install}\n" in dockerfile
    assert install.replace("pip install", "pip install --quiet") in (ROOT / "Makefile").read_text()


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
