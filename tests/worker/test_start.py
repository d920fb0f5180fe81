"""A worker that cannot start reports the reason and exits."""

import subprocess
import sys
from pathlib import Path

import pytest

CASES = {
    "no base": ({"DIFFFIT_BASE_MODEL": "/nowhere/at-all"}, "The base '/nowhere/at-all' cannot be loaded"),
    "not a base": ({"DIFFFIT_BASE_MODEL": str(Path(__file__).parent)}, "cannot be loaded"),
    "no database": ({"DIFFFIT_DATABASE_URL": "postgresql://nobody@127.0.0.1:1/none"}, "The database does not respond"),
    "no storage": ({"DIFFFIT_STORAGE_URL": "file:///proc/nowhere"}, "The object store does not respond"),
}


@pytest.mark.parametrize("case", CASES)
def test_startup_failure_is_reported_in_one_sentence(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, sentence = CASES[case]
    monkeypatch.setenv("DIFFFIT_DATA_DIR", str(tmp_path))
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    run = subprocess.run([sys.executable, "-m", "worker"], capture_output=True, text=True, check=False, timeout=120)
    assert run.returncode == 1
    assert sentence in run.stderr.splitlines()[-1]
