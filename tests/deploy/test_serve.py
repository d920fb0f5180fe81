"""`make serve` with real processes: a dead process is restarted separately, and all stop together."""

import asyncio
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import psutil
import pytest

import serve
from tests import services
from tests.processes import ADMIN, Caller, Process, wait_for_worker

ROOT = Path(__file__).parents[2]


def until(condition: Callable[[], object]) -> None:
    while not condition():
        time.sleep(0.1)


def child(process: Process, module: str) -> psutil.Process | None:
    """Returns the process that runs `module` now."""
    for running in psutil.Process(process.pid).children():
        with suppress(psutil.NoSuchProcess):  # the process has just ended
            if running.cmdline()[-1:] == [module]:
                return running
    return None


def test_killed_process_is_restarted_alone(tmp_path: Path) -> None:
    port = services.free_port()
    url = f"http://127.0.0.1:{port}"
    own = {"DIFFFIT_DATA_DIR": str(tmp_path / "data"), "DIFFFIT_PORT": str(port), "DIFFFIT_ADMIN_KEY": ADMIN}
    with (tmp_path / "log").open("wb") as log, served([str(ROOT / "serve.py")], own, log.fileno()) as process:
        wait_for_worker(url)
        api, worker = child(process, "api"), child(process, "worker")
        assert api is not None
        assert worker is not None
        with httpx.Client(base_url=url) as client:
            admin = Caller(client, ADMIN)
            before = {worker["id"] for worker in admin.get("/v1/admin/workers")["data"]}
            worker.kill()
            while {worker["id"] for worker in admin.get("/v1/admin/workers")["data"]} <= before:
                time.sleep(0.1)  # the API must respond meanwhile
        assert child(process, "api") == api
        successor = child(process, "worker")

        api.kill()
        until(lambda: child(process, "api") not in {api, None})
        wait_for_worker(url)
        assert child(process, "worker") == successor

        started = psutil.Process(process.pid).children()
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
        assert not any(ended.is_running() for ended in started)
    assert (tmp_path / "log").read_text().count("restarts in 1 s") == 2


def test_serve_shows_the_first_admin_key_and_stops_with_its_terminal(tmp_path: Path) -> None:
    port = services.free_port()
    own = {"DIFFFIT_DATA_DIR": str(tmp_path / "data"), "DIFFFIT_PORT": str(port)}
    terminal, end = pty.openpty()
    with served([str(ROOT / "serve.py")], own, end, terminal=True) as process:
        os.close(end)
        shown = b""
        while b"listens on" not in shown:
            shown += os.read(terminal, 2**16)
        assert b"dfk_" in shown
        started = psutil.Process(process.pid).children()
        assert len(started) == len(serve.MODULES)
        os.close(terminal)
        assert process.wait(60) == 0
        assert not any(ended.is_running() for ended in started)


def test_repeated_deaths_are_followed_by_growing_pauses(module: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module.write_text("raise SystemExit(3)")
    stop, pauses = asyncio.Event(), []

    async def pause(event: asyncio.Event, seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 8:
            stop.set()

    monkeypatch.setattr(serve, "wait", pause)
    asyncio.run(serve.keep_running(module.stem, stop, asyncio.Event()))
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60]


def test_process_that_does_not_stop_in_time_is_killed_with_its_children(
    module: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module.write_text(
        "import signal, subprocess, sys\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "other = subprocess.Popen([sys.executable, '-c', 'import signal; signal.pause()'])\n"
        "print(other.pid)\n"
        "signal.pause()\n"
    )
    monkeypatch.setattr(serve, "STOP_SECONDS", 0.1)
    shown: list[bytes] = []

    async def start_and_stop() -> int:
        stop = asyncio.Event()

        def show(module: str, *lines: bytes) -> None:
            shown.extend(lines)
            stop.set()

        monkeypatch.setattr(serve, "show", show)
        return await serve.run(module.stem, stop, asyncio.Event())

    assert asyncio.run(start_and_stop()) == -signal.SIGKILL
    other = int(shown[0])
    until(lambda: not psutil.pid_exists(other) or psutil.Process(other).status() == psutil.STATUS_ZOMBIE)


def test_second_signal_kills_immediately(module: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module.write_text("import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nprint()\nsignal.pause()\n")

    def show(module: str, *lines: bytes) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(serve, "MODULES", (module.stem,))
    monkeypatch.setattr(serve, "show", show)
    asyncio.run(asyncio.wait_for(serve.serve(), serve.STOP_SECONDS / 2))


def test_output_without_a_reader_is_dropped() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-c", "import serve; serve.show('api', b'line')"]
    subprocess.run(command, cwd=ROOT, stdout=writing, check=True)
    os.close(writing)


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Returns a file that `python -m` finds."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return tmp_path / "stand_in.py"


@contextmanager
def served(command: list[str], environment: dict[str, str], output: int, terminal: bool = False) -> Iterator[Process]:
    """Starts a process in a separate session, with `output` as its controlling terminal if it is a terminal."""
    process = subprocess.Popen(
        [sys.executable, *(["-c", ON_TERMINAL] if terminal else []), *command],
        env={**os.environ, **environment},
        stdout=output,
        stderr=output,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        for running in [*psutil.Process(process.pid).children(), process] if process.poll() is None else []:
            running.kill()
        process.wait()


ON_TERMINAL = (
    "import fcntl, os, signal, sys, termios; fcntl.ioctl(1, termios.TIOCSCTTY, 0); "
    "signal.signal(signal.SIGHUP, signal.SIG_DFL); "
    "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
)
"""Program that makes standard output the session's terminal, as in a shell, also where the tests run with nohup."""
