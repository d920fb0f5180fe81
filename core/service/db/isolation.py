"""Tenant filter of sessions: restricts each ORM statement to rows of the session's tenant, without those of its
deleted domains.

The filter covers a select's entities, aliases, subqueries, CTEs, unions and joins, loads of relationships,
`session.get`, and the rows that an update or delete changes. It does not cover statements on Core tables or in plain
text, the second table of UPDATE … FROM and DELETE … USING, updates by a list of primary keys, or selects of only a
window function. `tests/core/service/test_tenancy_lint.py` lists every place with such a statement. On PostgreSQL,
row-level security filters these statements too.
"""

from functools import lru_cache

from sqlalchemy import event, select
from sqlalchemy.orm import LoaderCriteriaOption, ORMExecuteState, Session, sessionmaker, with_loader_criteria

from core.service.db.base import DomainOwned, TenantOwned
from core.service.db.models import Domain
from core.service.tenancy import SIGNED_URL, Scope

_SCOPE = "scope"
_NO_TENANT = ""
"""Tenant id that filters a session without a scope. No row has this tenant id, so the session sees no tenant's rows."""


def set_scope(session: Session, scope: Scope | None) -> None:
    """Sets whose rows a session sees: those of the tenant in `scope`, every tenant's for a scope without a tenant
    (`SYSTEM`), and no tenant's for None."""
    session.info[_SCOPE] = scope


def scope_of(session: Session) -> Scope:
    """Returns the scope that the session was opened with. Raises LookupError if the session was opened without a
    scope."""
    scope: Scope | None = session.info[_SCOPE]
    if scope is None:
        raise LookupError("this session has no scope: open it with Database.session(scope)")
    return scope


def filter_statements(sessions: sessionmaker[Session]) -> None:
    """Adds the tenant filter to every session that the factory `sessions` makes."""
    event.listen(sessions, "do_orm_execute", _add_filter)


def _add_filter(state: ORMExecuteState) -> None:
    # Loads of relationships and of deferred columns inherit the filter of the statement that loaded their parent.
    if state.is_insert or state.is_relationship_load or state.is_column_load:
        return
    scope: Scope | None = state.session.info[_SCOPE]
    tenant_id = scope.tenant_id if scope is not None else _NO_TENANT
    if tenant_id is not None:
        state.statement = state.statement.options(_filter(tenant_id), _UNDELETED)
    elif scope == SIGNED_URL:
        state.statement = state.statement.options(_UNDELETED)


@lru_cache(maxsize=1024)
def _filter(tenant_id: str) -> LoaderCriteriaOption:
    return with_loader_criteria(TenantOwned, lambda cls: cls.tenant_id == tenant_id, include_aliases=True)


# Nearly always an empty subquery, evaluated once per statement, so that lists keep the order of their index.
_UNDELETED = with_loader_criteria(
    DomainOwned,
    lambda cls: cls.domain_id.not_in(select(Domain.id).where(Domain.deleted_at.is_not(None))),
    include_aliases=True,
)
