"""The client compared with the OpenAPI document, and its imports and types."""

import inspect
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import httpx
import mypy.api
import pytest

from difffit.cli import finetunes, generations
from difffit.requests import FinetuneSettings, GenerationSettings
from tests.client.conftest import Server

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "client" / "src" / "difffit"
FOR_MACHINES = {
    ("GET", "/livez"),
    ("GET", "/metrics"),
    ("PUT", "/v1/domains/{id}/datasets/uploads/{upload_id}/parts/{number}"),  # responses contain its URL
}


def test_generated_files_match_the_openapi_document() -> None:
    script = [sys.executable, "client/scripts/generate.py", "--check"]
    done = subprocess.run(script, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_operation_has_a_method(server: Server) -> None:
    document: dict[str, Any] = httpx.get(f"{server.url}/openapi.json").json()
    promised = {(method.upper(), path) for path, operations in document["paths"].items() for method in operations}
    sources = "\n".join(path.read_text() for path in (PACKAGE / "_sync").glob("*.py"))
    assert {path for _, path in promised - FOR_MACHINES} == set(re.findall(r'"(/(?:v1/|readyz)[^"]*)"', sources))


@pytest.mark.parametrize(
    ("function", "settings", "without"),
    [(finetunes.start, FinetuneSettings, set()), (generations.generate, GenerationSettings, {"class_name"})],
)
def test_command_has_an_option_for_every_setting(function: Any, settings: Any, without: set[str]) -> None:
    """The command `generate` takes several class names instead of one."""
    assert set(settings.__annotations__) - without <= set(inspect.signature(function).parameters)


def test_client_imports_neither_torch_nor_the_server() -> None:
    blocked = ["torch", "api", "core", "local", "worker", "sqlalchemy", "fastapi", "numpy", "PIL"]
    code = f"import sys; sys.modules.update(dict.fromkeys({blocked})); import difffit.cli.app; difffit.Client"
    subprocess.run([sys.executable, "-c", code], check=True, cwd="/")


def test_help_needs_neither_http_nor_models() -> None:
    code = (
        "import sys, difffit.cli.app; sys.exit(bool({'httpx', 'difffit.models', 'difffit._sync'} & set(sys.modules)))"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd="/")


def test_types_reach_the_user(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(
        """
from difffit import AsyncClient, Client

with Client() as client:
    domain = client.domains.create("Icons")
    reveal_type(domain.active_adapter_id)
    reveal_type([event for event in client.finetunes.events("ft_1")])
    reveal_type(client.generate(domain.id, class_name="fruit")[0].settings)
    client.finetunes.start(domain.id, "ds_1", method="other")
    client.generate(domain.id, steps="many")

async def main(client: AsyncClient) -> None:
    reveal_type(await client.domains.get("dom_1"))
    reveal_type([one async for one in client.domains.list()])
"""
    )
    output, _, _ = mypy.api.run(["--strict", "--cache-dir", str(ROOT / ".mypy_cache"), str(tmp_path / "script.py")])
    messages = [re.sub(r"^.*?script\.py:\d+: ", "", line) for line in output.splitlines()]
    kinds = ("Status", "Progress", "Evaluation", "Sample", "Failure")
    events = " | ".join(f"difffit.events.{kind}" for kind in kinds)
    for expected in (
        'note: Revealed type is "str | None"',
        f'note: Revealed type is "list[{events}]"',
        'note: Revealed type is "dict[str, Any]"',
        'note: Revealed type is "difffit.models.Domain"',
        'note: Revealed type is "list[difffit.models.Domain]"',
    ):
        assert expected in [line.replace("builtins.", "") for line in messages], output
    assert len([line for line in messages if line.startswith("error")]) == 2, output


def test_package_ships_its_type_marker() -> None:
    project = tomllib.loads((ROOT / "client" / "pyproject.toml").read_text())
    assert project["tool"]["setuptools"]["package-data"]["difffit"] == ["py.typed"]
    assert (PACKAGE / "py.typed").is_file()
