"""Rejected API keys, recorded in the audit log. They are counted per client address and minute, so that strangers
cannot fill the log with one entry for each request."""

import asyncio
import threading
from dataclasses import dataclass

import structlog
from fastapi import Request

from api.limits import address_of
from api.waiting import wait_for
from core.artifact.errors import CoreError
from core.service import keys
from core.service.db.session import Database
from core.service.tenancy import SYSTEM

logger = structlog.get_logger()
MAX_ADDRESSES = 20
"""Maximum number of client addresses with an audit entry of their own, per process and minute. All other addresses
share one entry without an address."""
_SECONDS = 60.0


@dataclass
class _Refusals:
    """Number of rejected API keys from one client address, with the ids of the first such key and request."""

    key_id: str
    """Id of the first rejected API key."""
    request_id: str
    count: int = 0


class RefusedKeys:
    """Counts rejected API keys by client address. Writes the counts to the audit log once a minute and when the process
    stops."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self._counts: dict[str | None, _Refusals] = {}
        self._lock = threading.Lock()
        self._closing = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def count(self, request: Request, token: str) -> None:
        address: str | None = address_of(request)
        with self._lock:
            if address not in self._counts and len(self._counts) >= MAX_ADDRESSES:
                address = None
            first = _Refusals(keys.id_of(token), request.state.request_id)
            self._counts.setdefault(address, first).count += 1

    def record(self) -> None:
        """Writes the counts since the last call to the audit log. If it raises DatabaseUnavailable, they are lost."""
        with self._lock:
            counts, self._counts = self._counts, {}
        if not counts:
            return
        with self.database.session(SYSTEM) as session:
            for address, refused in counts.items():
                keys.record_refused(session, refused.key_id, address, refused.request_id, refused.count)

    def start(self) -> None:
        self._closing = asyncio.Event()
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        self._closing.set()
        if self._task is not None:
            await self._task

    async def _run(self) -> None:
        stops = False
        while not stops:
            stops = await wait_for(self._closing, _SECONDS)
            try:
                await asyncio.to_thread(self.record)
            except CoreError as error:
                logger.warning("rejected keys were not recorded", error=error.detail)
