"""Runs code blocks of documents: those marked `bash` in a shell, those marked `python` as a script."""

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.client.conftest import Server
from tests.processes import ADMIN

ROOT = Path(__file__).parents[2]


def blocks(text: str, language: str) -> list[str]:
    """Returns the contents of the fenced blocks in that language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def changed(script: str, changes: Mapping[str, str]) -> str:
    """Returns the script with some words replaced; each of them must occur in it."""
    for words, instead in changes.items():
        assert words in script, words
        script = script.replace(words, instead)
    return script


def environment(server: Server, folder: Path, key: str | None = None) -> dict[str, str]:
    """Returns a reader's environment: the commands and the administrator's key. With `key`, a tenant's, it also has
    this key and the server's address."""
    own = {
        "ADMIN_KEY": ADMIN,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "DIFFFIT_CONFIG": str(folder / "config.json"),
        "DIFFFIT_TORCH_THREADS": "1",
    }
    return os.environ | own | ({"DIFFFIT_URL": server.url, "DIFFFIT_API_KEY": key} if key else {})


def run(command: list[str], folder: Path, environment: Mapping[str, str]) -> str:
    """Runs the command in a folder that contains the project's drawings, and returns its output."""
    if not (folder / "core").exists():
        (folder / "core").symlink_to(ROOT / "core")
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=400, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def run_shell(script: str, folder: Path, environment: Mapping[str, str]) -> str:
    return run(["bash", "-euo", "pipefail", "-c", script], folder, environment)
