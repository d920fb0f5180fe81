"""Helpers to wait for an asyncio event with a timeout, and to read the header `Prefer: wait`."""

import asyncio
import re

LONGEST_WAIT = 60


async def wait_for(event: asyncio.Event, seconds: float) -> bool:
    """Waits for the event, for at most `seconds`. Returns whether the event was set."""
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return False
    return True


def preferred_wait(prefer: str | None) -> int:
    """Returns the seconds that a header such as `Prefer: wait=30` (RFC 7240) asks to wait, at most 60, or 0 without
    it."""
    match = re.search(r"(?:^|[,;\s])wait\s*=\s*\"?(\d{1,9})", prefer or "", re.IGNORECASE | re.ASCII)
    return min(int(match.group(1)), LONGEST_WAIT) if match else 0
