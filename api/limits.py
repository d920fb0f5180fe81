"""Rate limits and budgets of an API process: requests per minute, wrong API keys per client address, and concurrent
uploads, downloads, event streams and waiting requests."""

import ipaddress
from functools import cached_property
from typing import TYPE_CHECKING

from fastapi import Request

from api.budgets import TransferBudget, stream_budget, wait_budget
from api.errors import RateLimited
from core.service.config import Settings
from core.service.tenancy import Scope

if TYPE_CHECKING:
    from core.service.rate_limits import Allowance, RequestCounter

NAME = "requests_per_minute"
_IPV6_NETWORK = 64
"""Number of leading bits of an IPv6 address that identify its network. A network has one owner, who can choose the
other bits freely, so limits count networks instead of addresses."""


class RequestLimits:
    """Rate limits and budgets of one API process. If the broker is Redis, all processes share the counts per minute.

    The request counter is imported when a tenant with a limit, or a wrong API key, first needs it.
    """

    def __init__(self, settings: Settings) -> None:
        self.default, self.most_wrong_keys = settings.max_requests_per_minute, settings.max_wrong_keys_per_minute
        self.transfers = TransferBudget(settings)
        self.streams, self.waits = stream_budget(settings), wait_budget(settings)
        self._broker_url = settings.broker_url

    def admit(self, request: Request, scope: Scope) -> None:
        """Counts a request of a tenant and sets the RateLimit headers of its response. Raises RateLimited if the tenant
        has reached its limit."""
        limit = self._limit(scope)
        if limit is None:
            return
        allowance = self._counter.take(scope.tenant, limit)
        request.state.limit_headers = _headers(allowance)
        if not allowance.admitted:
            raise RateLimited("requests", limit, allowance.seconds)

    def used(self, scope: Scope) -> int:
        """Returns the number of requests that the tenant sent in the last minute, or 0 for a tenant without a limit,
        whose requests are not counted."""
        limit = self._limit(scope)
        return 0 if limit is None else limit - self._counter.look(scope.tenant, limit).left

    def count_wrong_key(self, request: Request) -> None:
        """Counts a wrong API key for the client's address. Raises RateLimited if the address sent too many.

        Valid API keys are accepted whatever the count is, so wrong keys from the same address cannot lock them out.
        """
        allowance = self._counter.take(f"wrong keys of {address_of(request)}", self.most_wrong_keys)
        if not allowance.admitted:
            raise RateLimited("wrong keys", self.most_wrong_keys, allowance.seconds)

    @cached_property
    def _counter(self) -> "RequestCounter":
        from core.service.rate_limits import RequestCounter

        return RequestCounter(self._broker_url)

    def _limit(self, scope: Scope) -> int | None:
        if scope.tenant_id is None:
            return None
        return self.default if scope.requests_per_minute is None else scope.requests_per_minute


def _headers(allowance: "Allowance") -> dict[str, str]:
    """Returns the headers `RateLimit-Policy` and `RateLimit` as defined by the IETF draft "RateLimit header fields for
    HTTP"."""
    return {
        "RateLimit-Policy": f'"{NAME}";q={allowance.limit};w=60',
        "RateLimit": f'"{NAME}";r={allowance.left};t={allowance.seconds}',
    }


def address_of(request: Request) -> str:
    """Returns the name under which limits count the address of the request's client; see `client_of`."""
    return client_of(request.client.host if request.client else "")


def client_of(host: str) -> str:
    """Returns the name under which limits count a client address: the address itself, or for IPv6 its /64 network,
    since one client owns all addresses of a network."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv4Address) or address.ipv4_mapped:
        return host
    return str(ipaddress.ip_network((int(address), _IPV6_NETWORK), strict=False))
