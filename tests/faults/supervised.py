"""A service whose workers are restarted when they end and killed when they take too much memory, as with compose."""

import threading
from contextlib import suppress
from pathlib import Path
from typing import Self

import psutil

from tests import services
from tests.faults.broken_worker import DEVICE_DIES, SWITCHES
from tests.faults.stack import Stack, until

MEMORY = 3 * 2**29
"""Maximum memory of a worker in bytes, more than twice what it needs here."""


class SupervisedStack(Stack):
    """Service whose workers can lose their device and whose jobs can take all memory; see `broken_worker`."""

    worker_module = "tests.faults.broken_worker"

    def __init__(self, folder: Path, postgres: services.Postgres) -> None:
        switches = folder / "switches"
        switches.mkdir()
        super().__init__(folder, postgres, settings={SWITCHES: str(switches)})
        self.switch = switches / DEVICE_DIES
        self.statuses: list[int] = []
        """Exit statuses of the workers that ended, in order."""
        self.restarts = threading.Event()
        """Workers are restarted only while this is set."""
        self.restarts.set()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._supervise, name="supervisor", daemon=True)

    def __enter__(self) -> Self:
        super().__enter__()
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._thread.join()
        super().__exit__(*error)

    def kill_device(self) -> None:
        """Kills the device of a worker, and returns when it has died."""
        self.switch.touch()
        until(lambda: not self.switch.exists(), seconds=60)

    def _supervise(self) -> None:
        missing = 0
        while not self._ended.wait(0.05):
            for pid, process in list(self.workers.items()):
                if process.poll() is None:
                    _bound(pid)
                else:
                    del self.workers[pid]
                    self.statuses.append(process.returncode)
                    missing += 1
            while missing and self.restarts.is_set():
                self.add_worker()
                missing -= 1


def _bound(pid: int) -> None:
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        if process.memory_info().rss > MEMORY:
            process.kill()
