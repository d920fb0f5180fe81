"""A worker that cannot start reports the reason and exits, and waits for a database that does not respond; one that is
asked to stop while it starts stops well."""

import subprocess
import sys
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from tests import services

NO_DATABASE = "postgresql://nobody@127.0.0.1:1/none"

CASES = {
    "no base": ({"DIFFFIT_BASE_MODEL": "/nowhere/at-all"}, "The base '/nowhere/at-all' cannot be loaded"),
    "not a base": ({"DIFFFIT_BASE_MODEL": str(Path(__file__).parent)}, "cannot be loaded"),
    "no GPU": ({"DIFFFIT_DEVICE": "cuda", "CUDA_VISIBLE_DEVICES": ""}, "torch finds no GPUs. Check nvidia-smi"),
    "short secret": ({"DIFFFIT_URL_SECRET": "short"}, "DIFFFIT_URL_SECRET: must have at least 32 characters"),
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
    run = subprocess.run([sys.executable, "-m", "worker"], capture_output=True, text=True, check=False, timeout=600)
    assert run.returncode == 1
    assert sentence in run.stderr.splitlines()[-1]
    assert "Traceback" not in run.stderr


def test_worker_waits_for_a_database_that_does_not_respond(
    tmp_path: Path, postgres_server: services.Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The database's socket appears while the worker waits. The worker then reports that tables are missing."""
    url, sockets = postgres_server.create("late"), tmp_path / "sockets"
    folder = str(conninfo_to_dict(postgres_server.uri)["host"])
    monkeypatch.setenv("DIFFFIT_DATABASE_URL", f"{url.partition('?')[0]}?host={sockets}")
    with subprocess.Popen([sys.executable, "-m", "worker"], stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert "the database does not respond, the worker tries again in 1 s" in process.stderr.readline()
        sockets.symlink_to(folder)
        *_, last = process.stderr
    postgres_server.drop("late")
    assert process.returncode == 1
    assert last == "The database schema is not at this version. Run `python -m migrations` first.\n"


def test_waiting_worker_stops_on_sigterm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIFFFIT_DATABASE_URL", NO_DATABASE)
    with subprocess.Popen([sys.executable, "-m", "worker"], stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        line = process.stderr.readline()
        process.terminate()
        assert process.stderr.read() == ""
    assert "Connection refused" in line
    assert process.returncode == 0


def test_worker_with_a_wrong_password_ends(postgres_server: services.Postgres, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server asks for passwords in one database, by a rule that is removed afterwards."""
    url = services.as_role(postgres_server.create("guarded"), services.WORKER)
    with psycopg.connect(postgres_server.uri) as connection:
        (rules,) = connection.execute("SELECT current_setting('hba_file')").fetchone() or ("",)
    before = Path(rules).read_text()
    monkeypatch.setenv("DIFFFIT_DATABASE_URL", url.replace("@", ":wrong@", 1))
    try:
        Path(rules).write_text(f"local guarded all scram-sha-256\n{before}")
        postgres_server.execute("SELECT pg_reload_conf()")
        command = [sys.executable, "-m", "worker"]
        run = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    finally:
        Path(rules).write_text(before)
        postgres_server.execute("SELECT pg_reload_conf()")
        postgres_server.drop("guarded")
    assert run.returncode == 1
    (line,) = run.stderr.splitlines()
    assert line.startswith("The worker cannot start: PostgreSQL rejects the sign-in (")
    assert f'password authentication failed for user "{services.WORKER}"' in line
    assert "Check role, password and database" in line


def test_health_of_a_worker_is_not_judged_without_the_database(monkeypatch: pytest.MonkeyPatch) -> None:
    """A supervisor must not end a worker whose generations wait for the database."""
    monkeypatch.setenv("DIFFFIT_DATABASE_URL", NO_DATABASE)
    run = subprocess.run([sys.executable, "-m", "worker.health"], capture_output=True, text=True, check=False)
    assert (run.returncode, run.stdout) == (0, "")
    assert run.stderr == "The database does not respond, so the worker's health is unknown.\n"


def test_machine_without_a_worker_is_not_healthy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIFFFIT_DATA_DIR", str(tmp_path))
    subprocess.run([sys.executable, "-m", "migrations"], capture_output=True, check=True)
    run = subprocess.run([sys.executable, "-m", "worker.health"], capture_output=True, text=True, check=False)
    assert (run.returncode, run.stderr) == (1, "no worker on this machine has reported recently\n")


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
        [sys.executable, "-c", STOPPED_EARLY], capture_output=True, text=True, check=False, timeout=600
    )
    assert (run.returncode, run.stdout.splitlines()[-1:]) == (0, ["problem: None"]), run.stderr
