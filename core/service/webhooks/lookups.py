"""DNS look-ups of hosts with a deadline.

`getaddrinfo` honours the operator's configuration (/etc/hosts, search domains, names of a container platform), but has
no timeout: with unresponsive name servers it takes half a minute or more. A resolver in Python has timeouts but ignores
that configuration. So each look-up runs `getaddrinfo` in a separate thread, which is abandoned at the deadline and ends
when `getaddrinfo` gives up. Abandoned threads are counted per tenant: a tenant whose name servers never respond gets no
further look-ups, and other tenants are not affected.
"""

import socket
import threading
from concurrent.futures import Future
from typing import Any

from core.service.webhooks.places import Places

_AT_ONCE = 32
"""Max look-ups that are running in this process, including abandoned ones."""
_places = Places(_AT_ONCE)


class TooManyLookups(Exception):
    """Too many look-ups of the tenant are still running."""


def addresses(tenant: str, host: str, port: int, seconds: float) -> list[str]:
    """Returns all IP addresses of a host, in the order of `getaddrinfo`. Raises TooManyLookups, TimeoutError after
    `seconds`, and OSError or UnicodeError for a host that does not exist."""
    if not _places.take(tenant):
        raise TooManyLookups
    future: Future[list[Any]] = Future()
    thread = threading.Thread(target=_look_up, args=(future, tenant, host, port), name="webhook-lookup", daemon=True)
    try:
        thread.start()
    except RuntimeError:  # the system cannot start another thread
        _places.give_back(tenant)
        raise
    return list(dict.fromkeys(str(info[4][0]) for info in future.result(max(0.0, seconds))))


def _look_up(future: "Future[list[Any]]", tenant: str, host: str, port: int) -> None:
    infos, failure = list[Any](), None
    try:
        infos = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except Exception as error:
        failure = error
    _places.give_back(tenant)  # before the result, since the caller may then start another look-up
    if failure is None:
        future.set_result(infos)
    else:
        future.set_exception(failure)
