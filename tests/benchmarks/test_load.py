"""The whole benchmark for a moment; its figures are for quiet machines."""

import json
import subprocess
import sys
from pathlib import Path


def test_every_answer_is_counted_and_good(tmp_path: Path) -> None:
    path = tmp_path / "load.json"
    command = [sys.executable, "-m", "benchmarks.load", "--seconds", "1", "--json", str(path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert path.is_file(), done.stderr
    found = json.loads(path.read_text())
    assert found["answers"] > 0
    assert (found["answers_5xx"], found["answers_not_200"]) == (0, 0)
    assert found["ratio"] > 0
