"""Waiting without a thread, for an event and for as long as a client prefers."""

import asyncio
import re

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
