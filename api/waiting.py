"""Waiting for a row to change, without a session."""

import asyncio
import re
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from api.notifier import Notifier

LONGEST_WAIT = 60


async def wait_for(event: asyncio.Event, seconds: float) -> bool:
    """False when nothing happened for so long."""
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return False
    return True


def preferred_wait(prefer: str | None) -> int:
    """The seconds of `Prefer: wait=30` (RFC 7240), at most a minute; 0 without it."""
    match = re.search(r"(?:^|[,;\s])wait\s*=\s*\"?(\d{1,9})", prefer or "", re.IGNORECASE | re.ASCII)
    return min(int(match.group(1)), LONGEST_WAIT) if match else 0


async def changes_until(notifier: "Notifier", id: str, key_id: str, seconds: float) -> AsyncGenerator[None]:
    """Yields after each change of a row, at once the first time, until the time is over or the caller's key has
    ended."""
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    async with notifier.watch(id, key_id) as changed:
        while not notifier.closing and await wait_for(changed, end - loop.time()):
            if notifier.has_ended(key_id):
                return
            changed.clear()
            yield
