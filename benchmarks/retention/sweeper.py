"""`python -m benchmarks.retention.sweeper URL FOLDER`: retention alone in a process, which is told when to sweep.

Each line of its input is a number of seconds; each line of its output, in JSON, what it did in them.
"""

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
from sqlalchemy.orm import Session

from core.config import Settings
from core.db.session import Database
from core.retention import Retention
from core.storage import FolderStore
from core.tenancy import SYSTEM, Scope


class Timed(Database):
    """Notes how long each transaction lasts: no lock of it lasts longer."""

    def __init__(self, url: str) -> None:
        super().__init__(url, SYSTEM)
        self.seconds: list[float] = []

    @contextmanager
    def session(self, scope: Scope | None = None) -> Iterator[Session]:
        started = time.perf_counter()
        with super().session(scope) as session:
            yield session
        self.seconds.append(time.perf_counter() - started)


def main() -> None:
    database = Timed(sys.argv[1])
    retention = Retention(database, FolderStore(Path(sys.argv[2])), Settings(keep_image_days=30))
    process = psutil.Process()
    for line in sys.stdin:
        database.seconds.clear()
        ends, removed = time.monotonic() + float(line), 0
        while (left := ends - time.monotonic()) > 0:
            removed += retention.sweep(min(1.0, left))
            time.sleep(0.01)  # as long as a worker's other chores, at least
        found = {"removed": removed, "transactions": database.seconds, "memory": process.memory_info().rss}
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
