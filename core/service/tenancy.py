"""Tenant isolation: the scope of a caller, and the SQL that sets the tenant for PostgreSQL's row-level security. The
tenant filter of ORM statements is in `core.service.db.isolation`."""

import re
from dataclasses import dataclass

from core.service.errors import Forbidden


@dataclass(frozen=True)
class Scope:
    """Caller of the service, and so the rows that a session may see: those of one tenant, or for an administrator or a
    worker (`tenant_id` None) those of every tenant."""

    tenant_id: str | None
    key_id: str | None = None
    scopes: frozenset[str] = frozenset()
    requests_per_minute: int | None = None
    """Rate limit of this tenant; None means the rate limit of the settings."""
    idempotency_key: str | None = None
    """Idempotency key of the request, whose effects are recorded with it."""

    @property
    def tenant(self) -> str:
        """Id of the tenant. Raises Forbidden for an administrator or a worker, who has no tenant."""
        if self.tenant_id is None:
            raise Forbidden("tenant")
        return self.tenant_id

    @property
    def key(self) -> str:
        """Id of the caller's API key. Raises Forbidden for a scope without one, such as a worker's."""
        if self.key_id is None:
            raise Forbidden("key")
        return self.key_id


SYSTEM = Scope(tenant_id=None)
"""Scope that sees every tenant's rows, without an API key: for workers and other work of the service itself."""
SIGNED_URL = Scope(tenant_id=None, scopes=frozenset({"signed_url"}))
"""Scope of requests with a signed URL: sees every tenant's rows, apart from those of deleted domains."""

_EVERY_TENANT = "*"
_TENANT = re.compile(r"[a-z0-9_]+|\*")


def admission(scope: Scope) -> str:
    """Returns the SQL that sets the tenant of a transaction on PostgreSQL, or every tenant if the scope has none.
    Row-level security then hides every other tenant's rows, even from a query without a tenant filter. A transaction
    without this SQL sees no tenant's rows. Raises ValueError for a malformed tenant id."""
    tenant = _EVERY_TENANT if scope.tenant_id is None else scope.tenant_id
    if not _TENANT.fullmatch(tenant):
        raise ValueError(f"{tenant!r} is no tenant")  # the id is put into the SQL as it is
    return f"SET LOCAL difffit.tenant = '{tenant}'"
