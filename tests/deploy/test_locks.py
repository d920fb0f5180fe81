"""The locks contain everything that pyproject.toml requires, with a hash for everything except torch."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
SERVER, CLIENT = (
    tomllib.loads((ROOT / folder / "pyproject.toml").read_text())["project"] for folder in (".", "client")
)
EXTRAS = SERVER["optional-dependencies"]


def asked(*extras: str) -> list[str]:
    return [*SERVER["dependencies"], *(requirement for extra in extras for requirement in EXTRAS[extra])]


def pins(name: str) -> dict[str, tuple[str, str]]:
    """Returns the version and the hashes of each package in a lock."""
    versions = {}
    for entry in re.split(r"\n(?=[a-z])", (ROOT / name).read_text()):
        if match := re.match(r"([\w.-]+)==(\S+)", entry):
            versions[canonicalize_name(match[1])] = (match[2], "".join(re.findall(r"--hash=\S+", entry)))
    return versions


WHOLE = pins("requirements.lock")


@pytest.mark.parametrize(
    ("lock", "requirements"),
    [
        ("requirements.lock", [*asked(*EXTRAS), *CLIENT["dependencies"]]),
        ("deploy/docker/worker.lock", [*asked("worker", "servers", "traces", "heic"), *CLIENT["dependencies"]]),
        ("deploy/docker/api.lock", [*asked("dashboard", "docs", "servers", "traces"), *CLIENT["dependencies"]]),
    ],
)
def test_lock_satisfies_the_requirements(lock: str, requirements: list[str]) -> None:
    locked = pins(lock)
    for requirement in map(Requirement, [*requirements, "setuptools>=80"]):
        if requirement.name not in {"torch", "difffit"}:  # the client is installed from its folder
            assert requirement.specifier.contains(locked[canonicalize_name(requirement.name)][0]), requirement


@pytest.mark.parametrize("lock", ["deploy/docker/api.lock", "deploy/docker/worker.lock"])
def test_image_lock_is_a_subset_of_the_full_lock(lock: str) -> None:
    assert pins(lock).items() <= WHOLE.items()


def test_everything_except_torch_has_a_hash() -> None:
    assert all("--hash=sha256:" in hashes for _, hashes in WHOLE.values())
    assert not any(re.match("torch$|nvidia", name) for name in WHOLE)
    (torch,) = re.findall(r"^\w.*$", (ROOT / "requirements-torch.txt").read_text(), re.MULTILINE)
    (required,) = (Requirement(text) for text in EXTRAS["worker"] if text.startswith("torch"))
    assert required.specifier.contains(torch.removeprefix("torch=="))


def test_only_the_tests_install_triton_directly() -> None:
    """Other installations get it with a torch for GPUs, in the version that this torch requires."""
    assert "triton" in WHOLE
    assert not {"triton"} & {*pins("deploy/docker/api.lock"), *pins("deploy/docker/worker.lock")}


def test_api_image_has_neither_torch_nor_packages_that_need_it() -> None:
    assert not {"torch", "diffusers", "accelerate", "matplotlib"} & set(pins("deploy/docker/api.lock"))


def test_worker_image_and_demo_have_neither_pages_nor_test_tools() -> None:
    assert not {"nicegui", "fastapi-swagger", "pytest", "moto", "mypy", "ruff"} & set(pins("deploy/docker/worker.lock"))


def test_installer_is_pinned_with_hashes() -> None:
    assert "--hash=sha256:" in pins("requirements-uv.lock")["uv"][1]


def test_plain_install_asks_for_few_packages() -> None:
    assert len(SERVER["dependencies"]) <= 16
