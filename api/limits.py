"""Limits of one API process: requests per minute, wrong keys per address, concurrent transfers, streams and waits."""

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
"""Bits of an IPv6 address that identify its owner, who can choose the rest."""


class RequestLimits:
    """Limits of one API process. With Redis, all processes share the counts per minute.

    The counter is imported on first use: for a tenant with a limit, or a wrong key.
    """

    def __init__(self, settings: Settings) -> None:
        self.default, self.most_wrong_keys = settings.max_requests_per_minute, settings.max_wrong_keys_per_minute
        self.transfers = TransferBudget(settings)
        self.streams, self.waits = stream_budget(settings), wait_budget(settings)
        self._broker_url = settings.broker_url

    def admit(self, request: Request, scope: Scope) -> None:
        """Counts a tenant's request and sets the response's RateLimit headers. Raises RateLimited."""
        limit = self._limit(scope)
        if limit is None:
            return
        allowance = self._counter.take(scope.tenant, limit)
        request.state.limit_headers = _headers(allowance)
        if not allowance.admitted:
            raise RateLimited("requests", limit, allowance.seconds)

    def used(self, scope: Scope) -> int:
        """Returns the tenant's requests of this minute; 0 without a limit, since requests are not counted then."""
        limit = self._limit(scope)
        return 0 if limit is None else limit - self._counter.look(scope.tenant, limit).left

    def count_wrong_key(self, request: Request) -> None:
        """Counts a wrong key. Raises RateLimited for an address that sent too many.

        Valid keys are not counted, so wrong keys of others cannot lock them out.
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
    """Returns the headers of the draft "RateLimit header fields for HTTP"."""
    return {
        "RateLimit-Policy": f'"{NAME}";q={allowance.limit};w=60',
        "RateLimit": f'"{NAME}";r={allowance.left};t={allowance.seconds}',
    }


def address_of(request: Request) -> str:
    """Returns the name under which the client's address is counted; see `client_of`."""
    return client_of(request.client.host if request.client else "")


def client_of(host: str) -> str:
    """Returns the name under which an address is counted: for IPv6 its /64 network, which one client owns."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv4Address) or address.ipv4_mapped:
        return host
    return str(ipaddress.ip_network((int(address), _IPV6_NETWORK), strict=False))
