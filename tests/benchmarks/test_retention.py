"""The whole benchmark for a moment, on few rows; its figures are for quiet machines."""

import json
import subprocess
import sys
from pathlib import Path


def test_rows_go_while_every_answer_is_good(tmp_path: Path) -> None:
    path = tmp_path / "retention.json"
    command = [sys.executable, "-m", "benchmarks.retention", "--generations", "2000", "--seconds", "2"]
    done = subprocess.run([*command, "--json", str(path)], capture_output=True, text=True)
    assert path.is_file(), done.stderr
    found = json.loads(path.read_text())
    assert found["removed"] > 0
    assert (found["failed"], found["transactions"] > 0) == (0, True)
    assert all(found["answers"].values())
    assert path.with_suffix(".md").is_file()
