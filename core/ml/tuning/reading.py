"""Reads items ahead on a separate thread, so that slow reading does not block the engine's loop."""

import threading
from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future
from contextlib import closing
from typing import Generic, TypeVar

Item = TypeVar("Item")


class ReadAhead(Generic[Item]):
    """Iterates `source` on a separate thread, at most `count` items ahead plus the one being read.

    Iterating yields the items in order. While the next item is not ready, iterating yields a Future instead, which is
    resolved when the item is ready or `source` has ended. Raises the errors of `source`.
    """

    def __init__(self, source: Generator[Item, None, None], count: int = 1) -> None:
        self._source, self._count = source, count
        self._items: deque[Item] = deque()
        self._changed = threading.Condition()
        self._awaited: Future[None] | None = None
        self._error: BaseException | None = None
        self._ended = self._closed = False
        threading.Thread(target=self._read, name="reading", daemon=True).start()

    def __iter__(self) -> Iterator[Item | Future[None]]:
        while (item := self._next()) is not None:
            yield item

    def close(self) -> None:
        """Makes the thread end after its current item and close `source`. Does not wait for the thread."""
        with self._changed:
            self._closed = True
            self._items.clear()
            self._changed.notify()

    def _next(self) -> Item | Future[None] | None:
        with self._changed:
            if self._items:
                self._changed.notify()
                return self._items.popleft()
            if not self._ended:
                self._awaited = Future()
                return self._awaited
            if self._error is not None:
                raise self._error
            return None

    def _read(self) -> None:
        error: BaseException | None = None
        try:
            with closing(self._source) as source:
                for item in source:
                    if not self._offer(item):
                        break
        except BaseException as raised:
            error = raised
        with self._changed:
            self._ended, self._error = True, error
        self._resolve()

    def _offer(self, item: Item) -> bool:
        """Queues an item for the consumer. Returns False, without queueing, when the iteration was closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or len(self._items) < self._count)
            if self._closed:
                return False
            self._items.append(item)
        self._resolve()
        return True

    def _resolve(self) -> None:
        with self._changed:
            awaited, self._awaited = self._awaited, None
        if awaited is not None:  # outside the lock, since the callbacks may take other locks
            awaited.set_result(None)
