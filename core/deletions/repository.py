"""Queries on deletions, and the count of what a domain or tenant owns."""

import datetime
from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, Table, exists, func, or_, select
from sqlalchemy.orm import Session

from core.db.base import Base
from core.db.models import Adapter, Deletion, StoredBytes, Worker
from core.db.paging import Page, PageRequest, fetch_page
from core.tenancy import SYSTEM, Scope, scoped


def get(session: Session, scope: Scope, id: str, *, lock: bool = False) -> Deletion | None:
    statement = scoped(select(Deletion), Deletion, scope).where(Deletion.id == id)
    return session.execute(statement.with_for_update() if lock else statement).scalar_one_or_none()


def page(session: Session, scope: Scope, tenant_id: str | None, request: PageRequest) -> Page[Deletion]:
    statement = scoped(select(Deletion), Deletion, scope)
    if tenant_id is not None:
        statement = statement.where(Deletion.tenant_id == tenant_id)
    return fetch_page(session, statement, Deletion.id, request)


def unfinished(session: Session, now: datetime.datetime, limit: int) -> Sequence[Deletion]:
    """Those of every tenant that no worker is at, locked."""
    statement = scoped(select(Deletion), Deletion, SYSTEM).where(
        Deletion.done_at.is_(None), or_(Deletion.claimed_until.is_(None), Deletion.claimed_until < now)
    )
    statement = statement.order_by(Deletion.id).limit(limit).with_for_update(skip_locked=True)
    return session.execute(statement).scalars().all()


def some_worker_may_hold(session: Session, since: datetime.datetime, alive_since: datetime.datetime) -> bool:
    """Whether a living worker has not yet let go of what was deleted before `since`."""
    late = or_(Worker.evicted_at.is_(None), Worker.evicted_at <= since)
    return bool(session.execute(select(exists().where(Worker.heartbeat_at >= alive_since, late))).scalar_one())


def adapters(session: Session, scope: Scope, column: Any, id: str) -> list[str]:
    """SHA-256 of every adapter of a domain or tenant, which the column names."""
    statement = scoped(select(Adapter.sha256), Adapter, scope).where(column == id)
    return sorted(set(session.execute(statement).scalars()))


def count_owned(session: Session, table: Table, id: str) -> dict[str, int]:
    """How many rows go with one row of a table, by table: those that point at it and are deleted with it, those that
    point at them, and so on."""
    counts = {}
    for name, conditions in _owned(table, table.c.id == id).items():
        owned = Base.metadata.tables[name]
        if name == StoredBytes.__tablename__:
            continue  # a count of ours, and nothing that anybody owned
        counts[name] = session.execute(select(func.count()).select_from(owned).where(or_(*conditions))).scalar_one()
    return {name: count for name, count in sorted(counts.items()) if count}


def _owned(table: Table, condition: ColumnElement[bool]) -> dict[str, list[ColumnElement[bool]]]:
    found: dict[str, list[ColumnElement[bool]]] = {table.name: [condition]}
    for other in Base.metadata.sorted_tables:
        for key in other.foreign_keys:
            if key.column.table is table and key.ondelete == "CASCADE" and other is not table:
                below = key.parent.in_(select(key.column).where(condition))
                for name, conditions in _owned(other, below).items():
                    found.setdefault(name, []).extend(conditions)
    return found
