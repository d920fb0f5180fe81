"""The whole benchmark for two seconds on few rows, without regard to its figures."""

import json
import subprocess
import sys
from pathlib import Path


def test_rows_are_deleted_while_every_response_succeeds(tmp_path: Path) -> None:
    path = tmp_path / "retention.json"
    command = [sys.executable, "-m", "benchmarks.retention", "--generations", "2000", "--seconds", "2"]
    done = subprocess.run([*command, "--json", str(path)], capture_output=True, text=True)
    assert path.is_file(), done.stderr
    report = json.loads(path.read_text())
    assert report["removed"] > 0
    assert (report["failed"], report["transactions"] > 0) == (0, True)
    assert all(report["answers"].values())
    assert path.with_suffix(".md").is_file()
