"""The whole benchmark for one second, without regard to its figures."""

import json
import subprocess
import sys
from pathlib import Path


def test_every_response_is_counted_and_successful(tmp_path: Path) -> None:
    path = tmp_path / "load.json"
    command = [sys.executable, "-m", "benchmarks.load", "--seconds", "1", "--json", str(path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert path.is_file(), done.stderr
    report = json.loads(path.read_text())
    assert report["answers"] > 0
    assert (report["answers_5xx"], report["answers_not_200"]) == (0, 0)
    assert report["ratio"] > 0
