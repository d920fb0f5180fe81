"""Every shell command of the documents is run by a test, or listed here with the reason for not running it."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.test_links import DOCUMENTS, ROOT

RUN = {
    "README.md": "tests/client/test_documents.py",
    "client/README.md": "tests/client/test_documents.py",
    "docs/api.md": "tests/client/test_documents.py",
    "docs/tutorial.md": "tests/client/test_tutorial.py",
}
"""Tests that run the blocks marked `bash` and `python`."""

NOT_RUN = {
    "make demo": "minutes long; tests/test_demo.py runs a small one",
    "make test": "this is it",
    "make install": "makes the environment that runs this",
    "make serve": "the tests start the same two processes themselves",
    "pip install": "the network",
    "difffit login": "asks; tests/client/test_commands.py answers",
    "difffit --install-completion": "changes the reader's shell; tests/client/test_commands.py shows the script",
    "sh deploy/new-env.sh": "tests/deploy/test_compose.py runs it",
    "python -m core.service.backup": "on a server elsewhere; tests/core/service/test_backup.py runs it on its own",
    "python -m worker": "needs DiT-XL/2's weights and a GPU; the tests start it on the bundled base",
    "docker build": "no docker here; `make images` runs the Dockerfiles' commands",
    "docker compose": "no docker here; tests/deploy/test_compose.py and tests/test_main_job.py run what it would start",
    "install -d": "as root, for compose",
    "git checkout": "the reader's checkout",
    "kubectl": "no cluster here; tests/deploy/test_kubernetes.py checks the manifests",
    "psql -f deploy/postgres/roles.sql": "on a server elsewhere; tests/deploy/test_roles.py runs it on its own",
    "python -m migrations": "on a server elsewhere; tests/test_main_job.py runs it on its own",
    "difffit train IMAGES --base facebook/DiT-XL-2-256": "the same; tests/client/test_local.py has the bundled one",
    "python -m benchmarks.": "minutes to hours; tests/benchmarks runs small ones",
}


def fences(document: Path) -> Iterator[tuple[str, str]]:
    """Yields (language, contents) of the document's fenced blocks."""
    yield from re.findall(r"^```(\w*)\n(.*?)^```$", document.read_text(), re.MULTILINE | re.DOTALL)


def commands(script: str) -> Iterator[str]:
    """Yields the commands without comments, settings of variables and line breaks."""
    for line in script.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        while words and (re.match(r"[A-Z_]+=", words[0]) or words[0] == "export"):
            words.pop(0)
        if words:
            yield " ".join(words)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_command_is_run_or_listed_with_a_reason(document: Path) -> None:
    name = str(document.relative_to(ROOT))
    for language, text in fences(document):
        assert language in {"bash", "python", "sh", "text", "json"}, f"{name}: a block without a language: {text}"
        if language in {"bash", "python"}:
            assert f'"{name}"' in (ROOT / RUN[name]).read_text()
        if language == "sh":
            for command in commands(text):
                assert any(command.startswith(start) for start in NOT_RUN), f"{name}: {command}"


def test_every_listed_command_occurs_in_a_document() -> None:
    documented = [
        command
        for path in DOCUMENTS
        for language, text in fences(path)
        if language == "sh"
        for command in commands(text)
    ]
    assert [start for start in NOT_RUN if not any(command.startswith(start) for command in documented)] == []
