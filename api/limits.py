"""Requests a minute: of each tenant, and with wrong keys of each address."""

import hashlib
from functools import cached_property
from typing import TYPE_CHECKING

from fastapi import Request

from core.config import Settings
from core.errors import RateLimited
from core.tenancy import Scope

if TYPE_CHECKING:
    from core.usage.requests import Allowance, RequestCounter

NAME = "requests_per_minute"
_MOST_REMEMBERED = 10_000


class RequestLimits:
    """Of one process of the API, which shares its tenants' counts with the others where there is a Redis.

    What counts is imported and made for the first tenant with a limit, and for the first wrong key.
    """

    def __init__(self, settings: Settings) -> None:
        self.default, self.most_wrong_keys = settings.max_requests_per_minute, settings.max_wrong_keys_per_minute
        self._broker_url = settings.broker_url
        self._wrong_keys: RequestCounter | None = None
        self._right_keys: dict[bytes, None] = {}

    def admit(self, request: Request, scope: Scope) -> None:
        """Counts a tenant's request; its answer tells what is left. Raises RateLimited."""
        limit = self._limit(scope)
        if limit is None:
            return
        allowance = self._counter.take(scope.tenant, limit)
        request.state.limit_headers = _headers(allowance)
        if not allowance.admitted:
            raise RateLimited("requests", limit, allowance.seconds)

    def used(self, scope: Scope) -> int:
        """Of the tenant's minute; 0 where there is no limit, since nobody counts then."""
        limit = self._limit(scope)
        return 0 if limit is None else limit - self._counter.look(scope.tenant, limit).left

    def admit_key(self, request: Request, token: str) -> None:
        """Before a key is looked up. Raises RateLimited for an address that has sent too many wrong ones.

        A key that was right before is looked up nevertheless: behind one address there may be many clients.
        """
        if self._wrong_keys is None or _digest(token) in self._right_keys:
            return
        allowance = self._wrong_keys.look(_address(request), self.most_wrong_keys)
        if not allowance.admitted:
            raise RateLimited("wrong keys", self.most_wrong_keys, allowance.seconds)

    def note_key(self, request: Request, token: str, *, right: bool) -> None:
        """What the look-up found."""
        if not right:
            self._right_keys.pop(_digest(token), None)
            self._wrong_keys = self._wrong_keys or _counter("")
            self._wrong_keys.take(_address(request), self.most_wrong_keys)
            return
        if len(self._right_keys) >= _MOST_REMEMBERED:
            self._right_keys.clear()
        self._right_keys[_digest(token)] = None

    @cached_property
    def _counter(self) -> "RequestCounter":
        return _counter(self._broker_url)

    def _limit(self, scope: Scope) -> int | None:
        if scope.tenant_id is None:
            return None
        return self.default if scope.requests_per_minute is None else scope.requests_per_minute


def _counter(broker_url: str) -> "RequestCounter":
    from core.usage.requests import RequestCounter

    return RequestCounter(broker_url)


def _headers(allowance: "Allowance") -> dict[str, str]:
    """The fields of the draft "RateLimit header fields for HTTP"."""
    return {
        "RateLimit-Policy": f'"{NAME}";q={allowance.limit};w=60',
        "RateLimit": f'"{NAME}";r={allowance.left};t={allowance.seconds}',
    }


def _address(request: Request) -> str:
    return request.client.host if request.client else ""


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode(errors="replace")).digest()
