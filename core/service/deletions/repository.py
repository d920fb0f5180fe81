"""Queries on deletions, and the count of what a domain or tenant owns."""

import datetime
from collections import Counter
from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, Select, Table, Tuple, and_, delete, func, or_, select, tuple_, update
from sqlalchemy.orm import Session

from core.service.db.base import Base
from core.service.db.models import (
    Adapter,
    ApiKey,
    Dataset,
    Deletion,
    Domain,
    Finetune,
    FinetuneEvent,
    Generation,
    GenerationImage,
    GenerationPreview,
    StoredBytes,
    Tenant,
    Webhook,
    WebhookDelivery,
)
from core.service.db.paging import Page, PageRequest, fetch_page
from core.service.tenancy import SYSTEM, Scope, scoped


def get(session: Session, scope: Scope, id: str, *, lock: bool = False) -> Deletion | None:
    statement = scoped(select(Deletion), Deletion, scope).where(Deletion.id == id)
    return session.execute(statement.with_for_update() if lock else statement).scalar_one_or_none()


def page(session: Session, scope: Scope, tenant_id: str | None, request: PageRequest) -> Page[Deletion]:
    statement = scoped(select(Deletion), Deletion, scope)
    if tenant_id is not None:
        statement = statement.where(Deletion.tenant_id == tenant_id)
    return fetch_page(session, statement, Deletion.id, request)


def unfinished(session: Session, now: datetime.datetime, limit: int) -> Sequence[Deletion]:
    """Returns deletions of every tenant that are not done and that no worker has claimed, locked."""
    statement = scoped(select(Deletion), Deletion, SYSTEM).where(
        Deletion.done_at.is_(None), or_(Deletion.claimed_until.is_(None), Deletion.claimed_until < now)
    )
    statement = statement.order_by(Deletion.id).limit(limit).with_for_update(skip_locked=True)
    return session.execute(statement).scalars().all()


def adapters(session: Session, scope: Scope, column: Any, id: str) -> list[str]:
    """Returns the SHA-256 of every adapter of the domain or tenant that `column` and `id` name."""
    statement = scoped(select(Adapter.sha256), Adapter, scope).where(column == id)
    return sorted(set(session.execute(statement).scalars()))


def owner(session: Session, deletion: Deletion) -> Domain | Tenant | None:
    """Returns the row that is being deleted, locked; None when it is gone."""
    if deletion.kind == "domain":
        return session.get(Domain, deletion.target, with_for_update=True)
    return session.get(Tenant, deletion.target, with_for_update=True)


def remove_some(session: Session, deletion: Deletion, limit: int) -> tuple[Counter[str], bool]:
    """Removes at most so many rows of each of the tables that may hold very many of one owner. Returns how many went,
    by table, and whether those were all."""
    column = "domain_id" if deletion.kind == "domain" else "tenant_id"
    generations = select(Generation.id).where(getattr(Generation, column) == deletion.target)
    finetunes = select(Finetune.id).where(getattr(Finetune, column) == deletion.target)
    event = (FinetuneEvent.finetune_id, FinetuneEvent.id)
    events = select(*event).where(FinetuneEvent.finetune_id.in_(finetunes))
    parts: list[tuple[Select[*tuple[Any, ...]], dict[type[Any], Tuple]]] = [
        (
            generations,
            {
                GenerationImage: tuple_(GenerationImage.generation_id),
                GenerationPreview: tuple_(GenerationPreview.generation_id),
                Generation: tuple_(Generation.id),
            },
        ),
        (events, {FinetuneEvent: tuple_(*event)}),
    ]
    if deletion.kind == "tenant":
        deliveries = select(WebhookDelivery.id).where(WebhookDelivery.tenant_id == deletion.target)
        parts.append((deliveries, {WebhookDelivery: tuple_(WebhookDelivery.id)}))
    removed, is_all = Counter[str](), True
    for owned, keys in parts:
        ids = [tuple(row) for row in session.execute(owned.limit(limit))]
        is_all = is_all and len(ids) < limit
        for model, key in keys.items():
            removed[model.__tablename__] += _removed(session, model, key.in_(ids))
    return removed, is_all


def end_work(session: Session, deletion: Deletion) -> Counter[str]:
    """Removes what a worker would take up or go on with, and what lets anybody in. Returns how many went, by table."""
    column = "domain_id" if deletion.kind == "domain" else "tenant_id"
    unfinished = select(Finetune.id).where(getattr(Finetune, column) == deletion.target, Finetune.finished_at.is_(None))
    doomed: list[tuple[type[Any], ColumnElement[bool]]] = [(FinetuneEvent, FinetuneEvent.finetune_id.in_(unfinished))]
    for model in (Generation, Finetune, Dataset):
        waits = model.status.in_(("queued", "running", "validating"))  # an index knows them
        doomed.append((model, and_(getattr(model, column) == deletion.target, waits)))
    if deletion.kind == "tenant":
        doomed.append((ApiKey, ApiKey.tenant_id == deletion.target))
        silenced = update(Webhook).where(Webhook.tenant_id == deletion.target)
        session.execute(silenced.values(status="disabled", updated_at=Webhook.updated_at))
    return Counter({model.__tablename__: _removed(session, model, condition) for model, condition in doomed})


def _removed(session: Session, model: type[Any], condition: ColumnElement[bool]) -> int:
    """Removes rows of one table, and returns how many they were."""
    return len(session.scalars(delete(model).where(condition).returning(model.tenant_id)).all())


def count_owned(session: Session, table: Table, id: str) -> dict[str, int]:
    """Counts the rows that are deleted with one row of a table, by table: those with a cascading foreign key to it,
    those with one to them, and so on."""
    counts = {}
    for name, conditions in _owned(table, table.c.id == id).items():
        owned = Base.metadata.tables[name]
        if name == StoredBytes.__tablename__:
            continue  # our own count, not a thing that the tenant owned
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
