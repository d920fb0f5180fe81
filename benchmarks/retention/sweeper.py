"""Runs retention in a separate process, on command: `python -m benchmarks.retention.sweeper URL FOLDER`.

Each line of its input is a number of seconds for which it deletes old rows. It answers with a line of JSON: the number
of deleted rows, the seconds of each transaction, and its resident memory in bytes.
"""

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
from sqlalchemy import event
from sqlalchemy.orm import Session

from core.service.config import Settings
from core.service.db.session import Database
from core.service.retention import Retention
from core.service.storage import FolderStore
from core.service.tenancy import SYSTEM, Scope


class Timed(Database):
    """Database that records in `seconds` how long each transaction holds row locks: from the start of the statement
    that takes the first lock to the end of the commit."""

    def __init__(self, url: str) -> None:
        super().__init__(url, SYSTEM)
        self.seconds: list[float] = []
        self._started_at = 0.0
        self._locked_at: float | None = None
        event.listen(self.engine, "before_cursor_execute", self._before)
        event.listen(self.engine, "after_cursor_execute", self._after)

    @contextmanager
    def session(self, scope: Scope | None = None) -> Iterator[Session]:
        self._locked_at = None
        with super().session(scope) as session:
            yield session
        if self._locked_at is not None:
            self.seconds.append(time.perf_counter() - self._locked_at)

    def _before(self, *_: Any) -> None:
        self._started_at = time.perf_counter()

    def _after(self, _conn: Any, cursor: Any, statement: str, *_: Any) -> None:
        is_lock = "FOR UPDATE" in statement or statement.startswith(("UPDATE", "DELETE", "INSERT"))
        if self._locked_at is None and is_lock and cursor.rowcount > 0:
            self._locked_at = self._started_at


def main() -> None:
    database = Timed(sys.argv[1])
    retention = Retention(database, FolderStore(Path(sys.argv[2])), Settings(keep_image_days=30))
    process = psutil.Process()
    while not retention.sweep(0.1):  # warm-up: SQLAlchemy compiles each statement on its first use
        pass
    for line in sys.stdin:
        database.seconds.clear()
        ends, removed = time.monotonic() + float(line), 0
        while (left := ends - time.monotonic()) > 0:
            removed += retention.sweep(min(1.0, left))
            time.sleep(0.01)  # a worker's other periodic tasks take at least this long
        report = {"removed": removed, "transactions": database.seconds, "memory": process.memory_info().rss}
        print(json.dumps(report), flush=True)


if __name__ == "__main__":
    main()
