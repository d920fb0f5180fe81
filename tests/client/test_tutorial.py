"""The tutorial, typed as it is written, in a shell; but with a server that runs already and fewer steps."""

import os
import re
import subprocess
import sys
from pathlib import Path

from difffit import read_settings
from tests.client.conftest import Server
from tests.processes import ADMIN

ROOT = Path(__file__).parents[2]
TUTORIAL = (ROOT / "docs/tutorial.md").read_text()
CHANGED = {
    "source .venv/bin/activate": "",  # it is active
    "http://127.0.0.1:8000": "{url}",
    "--steps 300": "--steps 2 --batch-size 2",
}


def test_it_ends_with_images(server: Server, tmp_path: Path) -> None:
    script = "\n".join(re.findall(r"^```bash\n(.*?)^```$", TUTORIAL, re.MULTILINE | re.DOTALL))
    for words, instead in CHANGED.items():
        assert words in script, words
        script = script.replace(words, instead.format(url=server.url))
    (tmp_path / "core").symlink_to(ROOT / "core")
    environment = os.environ | {
        "ADMIN_KEY": ADMIN,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "DIFFFIT_CONFIG": str(tmp_path / "config.json"),
    }
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=400, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    before, after = (sorted((tmp_path / name).glob("*.png")) for name in ("before", "pictures"))
    assert len(before) == len(after) == 4
    assert [read_settings(path.read_bytes())["seed"] for path in after] == [
        read_settings(path.read_bytes())["seed"] for path in before
    ]
    assert {path.read_bytes() for path in before}.isdisjoint(path.read_bytes() for path in after)
