"""Runs the examples of the README, the API guide and the client's README, with a server that is already running and
fewer steps. Skips the README's examples that need other machines or services."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from core.service.webhooks.signing import headers, new_secret
from difffit import read_settings
from tests.client.conftest import Server
from tests.client.documents import ROOT, blocks, changed, environment, run, run_shell

README, CLIENT, GUIDE = ((ROOT / name).read_text() for name in ("README.md", "client/README.md", "docs/api.md"))
FEW = {"--steps 100": "--steps 2 --batch-size 2"}
FEW_IN_JSON = {'\\"steps\\": 100': '\\"steps\\": 2, \\"batch_size\\": 2'}


def test_readme_commands_run(server: Server, tmp_path: Path) -> None:
    changes = {"http://127.0.0.1:8000": server.url} | FEW | FEW_IN_JSON
    printed = run_shell(changed("\n".join(blocks(README, "bash")), changes), tmp_path, environment(server, tmp_path))
    assert "event: progress" in printed
    assert read_settings((tmp_path / "fruit.png").read_bytes())["seed"] == 1
    assert len(list((tmp_path / "pictures").glob("*.png"))) == 4


def test_api_guide_examples_run(server: Server, tmp_path: Path) -> None:
    """The Python example uses the folder that the shell example created."""
    elsewhere = {"http://127.0.0.1:8000": server.url, "hooks.example.com": "hooks.invalid"}
    script = changed("\n".join(blocks(GUIDE, "bash")), elsewhere | FEW_IN_JSON)
    printed = run_shell(script, tmp_path, environment(server, tmp_path))
    receipt = json.loads(printed.splitlines()[-1])
    assert receipt["kind"] == "domain"
    assert read_settings((tmp_path / "fruit.png").read_bytes())["seed"] == 1
    program, _ = blocks(GUIDE, "python")
    program = changed(program, {"steps=100": "steps=2, batch_size=2"})
    assert "status='succeeded'" in run(
        [sys.executable, "-c", program], tmp_path, environment(server, tmp_path, server.key)
    )
    assert len(list((tmp_path / "pictures").glob("*.png"))) == 2


def test_guides_signature_check_accepts_only_valid_signatures() -> None:
    _, program = blocks(GUIDE, "python")
    namespace: dict[str, Any] = {}
    exec(program, namespace)
    secret, body = new_secret(), '{"type": "finetune.succeeded"}'
    sent = headers("msg_1", 1_795_000_000, body, [new_secret(), secret])
    assert namespace["is_ours"](secret, sent, body.encode())
    assert not namespace["is_ours"](secret, sent, b"{}")
    assert not namespace["is_ours"](new_secret(), sent, body.encode())


def test_client_readme_examples_run(server: Server, drawings: Path, tmp_path: Path) -> None:
    (tmp_path / "drawings").symlink_to(drawings)
    shell, alone = blocks(CLIENT, "bash")
    shell = changed(shell, {"--watch": "--steps 2 --batch-size 2 --watch"})
    alone = changed(alone, {"--steps 300": "--steps 2 --batch-size 2"})
    run_shell(shell, tmp_path, environment(server, tmp_path, server.key))
    (tmp_path / "pictures").rename(tmp_path / "first")
    (program,) = blocks(CLIENT, "python")
    program = changed(program, {"steps=300": "steps=2, batch_size=2", "Icons in our style": "Icons from Python"})
    run([sys.executable, "-c", program], tmp_path, environment(server, tmp_path, server.key))
    first, second = (
        {path.name: path.read_bytes() for path in (tmp_path / name).glob("*")} for name in ("first", "pictures")
    )
    assert len(first) == 4
    assert first == second, "the command and the SDK must generate the same image"
    run_shell(alone, tmp_path, environment(server, tmp_path))


@pytest.mark.parametrize("document", [CLIENT, GUIDE], ids=["client", "guide"])
def test_main_job_example_is_short_and_fully_typed(document: str, tmp_path: Path) -> None:
    """The example has at most 15 lines, and strict mypy knows the type of every expression."""
    program = blocks(document, "python")[0]
    assert len(program.splitlines()) <= 15
    path = tmp_path / "main_job.py"
    path.write_text(program)
    options = ["--strict", "--disallow-any-expr", "--config-file=", f"--cache-dir={tmp_path / 'cache'}"]
    command = [sys.executable, "-m", "mypy", *options, str(path)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
