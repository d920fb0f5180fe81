"""Whose rows a caller sees: the one place where statements get their tenant filter, and the database is told of it."""

import re
from dataclasses import dataclass
from typing import Any, TypeVar

from sqlalchemy import Select, String, bindparam

from core.errors import Forbidden


@dataclass(frozen=True)
class Scope:
    """Who asks: a tenant, or an administrator (`tenant_id` None)."""

    tenant_id: str | None
    key_id: str | None = None
    scopes: frozenset[str] = frozenset()
    requests_per_minute: int | None = None
    """The tenant's own limit; None: the service's."""

    @property
    def tenant(self) -> str:
        """The tenant's id. Raises Forbidden for an administrator, who has no rows of their own."""
        if self.tenant_id is None:
            raise Forbidden("tenant")
        return self.tenant_id

    @property
    def key(self) -> str:
        """The id of the key that asks. Raises Forbidden for the service itself."""
        if self.key_id is None:
            raise Forbidden("key")
        return self.key_id


Statement = TypeVar("Statement", bound=Select[*tuple[Any, ...]])

SYSTEM = Scope(tenant_id=None)
"""Workers and administrators: every tenant's rows."""

ANY_TENANT = Scope(tenant_id=bindparam("tenant", type_=String()))  # type: ignore[arg-type]
"""Stands for the tenant that asks in a statement that is made once, and run with `{"tenant": scope.tenant}`."""

_EVERY_TENANT = "*"
_TENANT = re.compile(r"[a-z0-9_]+|\*")


def scoped(statement: Statement, model: Any, scope: Scope) -> Statement:
    """The statement, seeing only the rows of `model` that the caller may see."""
    return statement if scope.tenant_id is None else statement.where(model.tenant_id == scope.tenant_id)


def admission(scope: Scope) -> str:
    """What tells PostgreSQL who asks, until the transaction ends: its policies hide every other tenant's rows, whatever
    the statements forget. A transaction that was not told sees no tenant's rows."""
    tenant = _EVERY_TENANT if scope.tenant_id is None else scope.tenant_id
    if not _TENANT.fullmatch(tenant):
        raise ValueError(f"{tenant!r} is no tenant")  # it becomes SQL
    return f"SET LOCAL difffit.tenant = '{tenant}'"
