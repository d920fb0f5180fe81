"""The compose file, without docker: its commands are the ones that the main job's test runs."""

import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
COMPOSE = (ROOT / "docker-compose.yml").read_text()
SERVICES: dict[str, dict[str, Any]] = yaml.safe_load(COMPOSE)["services"]
OURS = {name: service for name, service in SERVICES.items() if "build" in service}
JOBS = {"bucket", "migrate", "roles"}


def test_the_services_are_there() -> None:
    apart = {"postgres", "redis", "storage", "roles"}
    assert set(SERVICES) - set(OURS) == apart
    assert set(OURS) == {"bucket", "migrate", "api", "worker", "worker-gpu"}


@pytest.mark.parametrize("name", sorted(OURS))
def test_our_commands_are_modules_that_exist(name: str) -> None:
    python, option, module = OURS[name]["command"]
    assert (python, option) == ("python", "-m")
    entry = f"{module}.__main__" if (ROOT / module.replace(".", "/")).is_dir() else module
    assert importlib.util.find_spec(entry) is not None


@pytest.mark.parametrize("name", sorted(set(SERVICES) - JOBS))
def test_what_keeps_running_has_a_health_check(name: str) -> None:
    assert SERVICES[name]["healthcheck"]["test"]


@pytest.mark.parametrize("name", sorted(OURS))
def test_our_containers_can_do_little(name: str) -> None:
    service = OURS[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    dockerfile = (ROOT / service["build"]["dockerfile"]).read_text()
    assert re.search(r"^USER \d+$", dockerfile, re.MULTILINE)
    for source in re.findall(r"^COPY (.+) \S+$", dockerfile, re.MULTILINE):
        assert all((ROOT / part).exists() for part in source.split())


def test_no_secret_has_a_default() -> None:
    secrets = [line for line in COMPOSE.splitlines() if re.search("PASSWORD|SECRET|ACCESS_KEY|ADMIN_KEY", line)]
    values = [match for line in secrets for match in re.findall(r"\$\{(\w+)(:?[-?][^}]*)?\}", line)]
    assert values
    assert all(rest.startswith(":?") for name, rest in values if name != "DIFFFIT_DATABASE_URL")
    example = (ROOT / "deploy/compose.env.example").read_text()
    assert {name for name, _ in values} <= set(re.findall(r"^(\w+)=", example, re.MULTILINE))


def test_the_api_image_has_no_torch() -> None:
    dockerfile = (ROOT / OURS["api"]["build"]["dockerfile"]).read_text()
    assert "[worker]" not in dockerfile


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
