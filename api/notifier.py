"""Wakes the requests that wait for a change of a database row. One task per process polls the database for all of them,
so that no request holds a database session while it waits."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Hashable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import structlog
from fastapi.concurrency import run_in_threadpool
from sqlalchemy import select

from api.waiting import wait_for
from core.service import keys as api_keys
from core.service.db.models import Finetune, Generation
from core.service.db.session import Database
from core.service.tenancy import SYSTEM

logger = structlog.get_logger()
_INTERVAL = 0.2
State = tuple[Any, ...]
_WORKS: State = (True,)
"""State of an API key that is neither revoked nor expired."""
Result = TypeVar("Result")


class Notifier:
    """Wakes the requests that wait for a change of a generation, fine-tune or API key, by its id (`gen_…`, `ft_…`,
    `key_…`)."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self._watched: dict[str, set[asyncio.Event]] = defaultdict(set)
        self._states: dict[str, State] = {}
        self._reads: dict[Hashable, asyncio.Task[Any]] = {}
        self._task: asyncio.Task[None] | None = None
        self._closing = asyncio.Event()

    @property
    def closing(self) -> bool:
        """Whether the process is about to stop, so that waiting requests must respond now."""
        return self._closing.is_set()

    def start(self) -> None:
        self._closing = asyncio.Event()
        self._task = asyncio.create_task(self._run())

    def close(self) -> None:
        """Wakes all waiting requests so that they respond, since uvicorn's graceful stop waits for their responses."""
        self._closing.set()
        for events in self._watched.values():
            for event in events:
                event.set()

    async def stop(self) -> None:
        """Stops polling, after a running query has returned."""
        self.close()
        if self._task is not None:
            await self._task

    @asynccontextmanager
    async def watch(self, *ids: str) -> AsyncIterator[asyncio.Event]:
        """Yields an event that is set at first, and again whenever one of the rows with these ids changes. The caller
        clears the event each time."""
        event = asyncio.Event()
        event.set()  # so that the caller reads the rows once, as they may have changed before the watch began
        for id in ids:
            self._watched[id].add(event)
        try:
            yield event
        finally:
            for id in ids:
                self._watched[id].discard(event)
                if not self._watched[id]:
                    del self._watched[id]
                    self._states.pop(id, None)

    async def changes(self, id: str, key_id: str, seconds: float) -> AsyncGenerator[None]:
        """Yields immediately and after each change of the row with this id. Stops after `seconds`, or when the caller's
        API key is revoked, expires or is deleted, or when the process stops."""
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        async with self.watch(id, key_id) as changed:
            while not self.closing and await wait_for(changed, end - loop.time()):
                if self.has_ended(key_id):
                    return
                changed.clear()
                yield

    def has_ended(self, key_id: str) -> bool:
        """Returns whether a watched API key was revoked, expired or deleted when the database was last polled."""
        return self._states.get(key_id, _WORKS) != _WORKS

    async def shared(self, key: Hashable, read: Callable[[], Result]) -> Result:
        """Runs a blocking database read in a thread and returns its result. Concurrent calls with the same `key` share
        one read."""
        if key not in self._reads:
            task = self._reads[key] = asyncio.create_task(run_in_threadpool(read))
            task.add_done_callback(lambda _: self._reads.pop(key))
        result: Result = await asyncio.shield(
            self._reads[key]
        )  # shielded, since cancelling one caller must not cancel the read that others wait for
        return result

    async def _run(self) -> None:
        while not await wait_for(self._closing, _INTERVAL):
            ids = list(self._watched)
            if not ids:
                continue
            try:
                self._notify(await run_in_threadpool(self._read, ids))
            except Exception as error:  # requests keep waiting; the next poll retries
                logger.warning("the notifier could not read", error=str(error))

    def _notify(self, states: dict[str, State]) -> None:
        for id, state in states.items():
            if self._states.get(id) != state:
                self._states[id] = state
                for event in self._watched.get(id, ()):
                    event.set()

    def _read(self, ids: list[str]) -> dict[str, State]:
        generations = [id for id in ids if id.startswith("gen_")]
        finetunes = [id for id in ids if id.startswith("ft_")]
        keys = [id for id in ids if id.startswith("key_")]
        states: dict[str, State] = dict.fromkeys(ids, ())
        with self.database.reading(SYSTEM) as session:
            if generations:
                wanted = select(Generation.id, Generation.status).where(Generation.id.in_(generations))
                states |= {id: (status,) for id, status in session.execute(wanted)}
            if finetunes:
                last = select(Finetune.id, Finetune.status, Finetune.last_event_id).where(Finetune.id.in_(finetunes))
                states |= {id: (status, event) for id, status, event in session.execute(last)}
            if keys:
                states |= dict.fromkeys(api_keys.working(session, keys), _WORKS)
        return states
