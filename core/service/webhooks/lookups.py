"""Host look-ups with a deadline.

`getaddrinfo` honours all that an operator has configured (/etc/hosts, search domains, a container platform's names),
but nothing ends a call of it: with name servers that do not answer it takes half a minute and more. A resolver in
Python has deadlines and honours none of that. So each look-up runs in a thread of its own, which is abandoned at the
deadline and ends when the system gives up. Abandoned threads are counted for each tenant: one whose name servers never
answer is refused further look-ups, and the others keep theirs.
"""

import socket
import threading
from concurrent.futures import Future
from typing import Any

from core.service.webhooks.places import Places

_AT_ONCE = 32
"""Look-ups that run or are abandoned, in this process."""
_places = Places(_AT_ONCE)


class TooManyLookups(Exception):
    """Earlier look-ups of the tenant are still without an answer."""


def addresses(tenant: str, host: str, port: int, seconds: float) -> list[str]:
    """Every address of a host, in the system's order. Raises TooManyLookups, TimeoutError after `seconds`, OSError and
    UnicodeError for a host that there is not."""
    if not _places.take(tenant):
        raise TooManyLookups
    future: Future[list[Any]] = Future()
    thread = threading.Thread(target=_look_up, args=(future, tenant, host, port), name="webhook-lookup", daemon=True)
    try:
        thread.start()
    except RuntimeError:  # the system has no thread left
        _places.give_back(tenant)
        raise
    return list(dict.fromkeys(str(info[4][0]) for info in future.result(max(0.0, seconds))))


def _look_up(future: "Future[list[Any]]", tenant: str, host: str, port: int) -> None:
    infos, failure = list[Any](), None
    try:
        infos = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except Exception as error:
        failure = error
    _places.give_back(tenant)  # first: whoever waits may look something up at once
    if failure is None:
        future.set_result(infos)
    else:
        future.set_exception(failure)
