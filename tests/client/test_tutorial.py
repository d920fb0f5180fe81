"""Runs the tutorial in a shell, with a server that is already running and fewer steps."""

from pathlib import Path

from difffit import read_settings
from tests.client.conftest import Server
from tests.client.documents import ROOT, blocks, changed, environment, run_shell

TUTORIAL = (ROOT / "docs/tutorial.md").read_text()


def test_tutorial_ends_with_images(server: Server, tmp_path: Path) -> None:
    changes = {
        "source .venv/bin/activate": "",  # it is active
        "http://127.0.0.1:8000": server.url,
        "--steps 300": "--steps 2 --batch-size 2",
    }
    run_shell(changed("\n".join(blocks(TUTORIAL, "bash")), changes), tmp_path, environment(server, tmp_path))
    before, after = (sorted((tmp_path / name).glob("*.png")) for name in ("before", "pictures"))
    assert len(before) == len(after) == 4
    assert [read_settings(path.read_bytes())["seed"] for path in after] == [
        read_settings(path.read_bytes())["seed"] for path in before
    ]
    assert {path.read_bytes() for path in before}.isdisjoint(path.read_bytes() for path in after)
