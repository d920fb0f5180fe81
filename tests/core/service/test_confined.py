"""Child processes with a limit on memory."""

import os
import signal
import sys
from collections.abc import Callable, Iterator

import pytest

from core.service.datasets.confined import CallFailed, Confined

LIMIT = 8_000_000
ENOUGH, TOO_MUCH = b"1000", b"50000000"


def allocator() -> Callable[[bytes], bytes]:
    """Returns a function that allocates as many bytes as its argument says, and then returns its process's id."""

    def allocate(count: bytes) -> bytes:
        bytearray(int(count))
        return str(os.getpid()).encode()

    return allocate


def crasher() -> Callable[[bytes], bytes]:
    """Returns a function that ends its process."""
    return lambda data: os.kill(os.getpid(), signal.SIGKILL) or b""


@pytest.fixture
def confined() -> Iterator[Confined]:
    process = Confined(f"{__name__}:allocator")
    yield process
    process.end()


def test_calls_share_one_process_which_survives_errors(confined: Confined) -> None:
    first = confined.call(ENOUGH, LIMIT)
    assert int(first) != os.getpid()
    with pytest.raises(CallFailed):
        confined.call(b"no number", LIMIT)
    assert confined.call(ENOUGH, LIMIT) == first


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits a process's memory by RLIMIT_DATA")
def test_call_gets_no_more_memory_than_its_limit(confined: Confined) -> None:
    with pytest.raises(CallFailed):
        confined.call(TOO_MUCH, LIMIT)
    assert confined.call(TOO_MUCH, 10 * LIMIT) == confined.call(ENOUGH, LIMIT)


def test_process_that_was_killed_is_replaced(confined: Confined) -> None:
    first = int(confined.call(ENOUGH, LIMIT))
    os.kill(first, signal.SIGKILL)
    assert int(confined.call(ENOUGH, LIMIT)) != first


def test_call_that_ends_its_process_fails() -> None:
    with pytest.raises(CallFailed):
        Confined(f"{__name__}:crasher").call(b"", LIMIT)
