"""The whole benchmark on a tiny model, without regard to its figures."""

import json
import subprocess
import sys
from pathlib import Path


def test_images_are_generated_through_rest(tmp_path: Path) -> None:
    path = tmp_path / "rest.json"
    command = [sys.executable, "-m", "benchmarks.rest", "--mini", "--json", str(path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    runs = json.loads(path.read_text())["runs"]
    assert [(run["images"], run["steps"]) for run in runs] == [(4, 2), (8, 2)]
    assert all(run["over_bare"] > 0 for run in runs)
