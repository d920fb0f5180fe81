"""Waiting for events without a thread, and the `Prefer: wait` header."""

import asyncio
import re

LONGEST_WAIT = 60


async def wait_for(event: asyncio.Event, seconds: float) -> bool:
    """Waits for the event. Returns False after a timeout."""
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return False
    return True


def preferred_wait(prefer: str | None) -> int:
    """Returns the seconds of `Prefer: wait=30` (RFC 7240), at most 60; 0 without it."""
    match = re.search(r"(?:^|[,;\s])wait\s*=\s*\"?(\d{1,9})", prefer or "", re.IGNORECASE | re.ASCII)
    return min(int(match.group(1)), LONGEST_WAIT) if match else 0
