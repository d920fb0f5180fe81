"""A worker that cannot start reports the reason and exits; one that is asked to stop while it starts stops well."""

import subprocess
import sys
from pathlib import Path

import pytest

CASES = {
    "no base": ({"DIFFFIT_BASE_MODEL": "/nowhere/at-all"}, "The base '/nowhere/at-all' cannot be loaded"),
    "not a base": ({"DIFFFIT_BASE_MODEL": str(Path(__file__).parent)}, "cannot be loaded"),
    "no database": ({"DIFFFIT_DATABASE_URL": "postgresql://nobody@127.0.0.1:1/none"}, "The database does not respond"),
    "no fp8": ({"DIFFFIT_FP8": "true"}, "DIFFFIT_FP8: needs an NVIDIA GPU of compute capability 8.9"),
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


STOPPED_EARLY = """
import os, signal, time
from unittest.mock import patch
from celery.worker import state
from core.service.config import get_settings
from core.service.db.schema import upgrade
from worker.app import run

def stopped(*_):
    os.kill(os.getpid(), signal.SIGTERM)
    while state.should_stop is None:
        time.sleep(0.01)

upgrade(get_settings().database_url)
with patch("celery.Celery.worker_main", stopped):
    print("problem:", run(get_settings()))
"""


def test_stop_before_celery_has_started_settles_jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIFFFIT_DATA_DIR", str(tmp_path))
    run = subprocess.run(
        [sys.executable, "-c", STOPPED_EARLY], capture_output=True, text=True, check=False, timeout=120
    )
    assert (run.returncode, run.stdout.splitlines()[-1:]) == (0, ["problem: None"]), run.stderr
