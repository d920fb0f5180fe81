"""Scopes: the tenant that a caller acts for, and the SQL that tells PostgreSQL's row-level security. The filter of ORM
statements is in `core.service.db.isolation`."""

import re
from dataclasses import dataclass

from core.service.errors import Forbidden


@dataclass(frozen=True)
class Scope:
    """Caller of the service: a tenant, or an administrator (`tenant_id` None)."""

    tenant_id: str | None
    key_id: str | None = None
    scopes: frozenset[str] = frozenset()
    requests_per_minute: int | None = None
    """The tenant's own limit; None: the service's."""

    @property
    def tenant(self) -> str:
        """Id of the tenant. Raises Forbidden for an administrator, who has no rows of their own."""
        if self.tenant_id is None:
            raise Forbidden("tenant")
        return self.tenant_id

    @property
    def key(self) -> str:
        """Id of the caller's key. Raises Forbidden for the service itself."""
        if self.key_id is None:
            raise Forbidden("key")
        return self.key_id


SYSTEM = Scope(tenant_id=None)
"""Scope of workers and administrators: every tenant's rows."""

_EVERY_TENANT = "*"
_TENANT = re.compile(r"[a-z0-9_]+|\*")


def admission(scope: Scope) -> str:
    """Returns the SQL that sets the tenant of a transaction on PostgreSQL. The policies then hide every other tenant's
    rows, even from a query without its filter. A transaction without this sees no tenant's rows. Raises ValueError for
    a malformed tenant id."""
    tenant = _EVERY_TENANT if scope.tenant_id is None else scope.tenant_id
    if not _TENANT.fullmatch(tenant):
        raise ValueError(f"{tenant!r} is no tenant")  # it becomes SQL
    return f"SET LOCAL difffit.tenant = '{tenant}'"
