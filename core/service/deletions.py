"""Deletion of a domain or a tenant. Its rows go in one commit, which leaves a receipt, or step by step where there are
very many. Its objects follow, and the adapters that workers hold; then the receipt states when all of it was gone."""

import datetime
import logging
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal

from sqlalchemy import ColumnElement, Select, Table, Tuple, and_, delete, func, or_, select, tuple_, update
from sqlalchemy.orm import Session

from core.service import fleet
from core.service.db.base import Base, new_id
from core.service.db.isolation import scope_of
from core.service.db.lookup import find, require
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
from core.service.db.session import Database, database_now
from core.service.storage import ObjectStore
from core.service.tenancy import SYSTEM

logger = logging.getLogger(__name__)
_PAGE = 500
_ROWS = 500
"""Max rows of each large table that one transaction removes: about 0.1 s."""
_SECONDS = 2.0
"""Time limit of one call. The next call continues, so that a worker's other chores have their turn."""
_AT_ONCE = 20
_CLAIM = datetime.timedelta(minutes=5)
"""Time in which a page of objects must be removed, before another worker takes the deletion up."""


def record(session: Session, row: Domain | Tenant, prefix: str) -> Deletion:
    """Creates the receipt of a row that is about to be deleted with all it owns."""
    kind: Literal["domain", "tenant"] = "domain" if isinstance(row, Domain) else "tenant"
    column = Adapter.domain_id if kind == "domain" else Adapter.tenant_id
    adapters = session.scalars(select(Adapter.sha256).where(column == row.id).distinct().order_by(Adapter.sha256))
    deletion = Deletion(
        id=new_id("del"),
        tenant_id=row.tenant_id if isinstance(row, Domain) else row.id,
        kind=kind,
        target=row.id,
        actor_key_id=scope_of(session).key_id,
        prefix=prefix,
        rows={},
        adapters=list(adapters),
        objects=0,
        bytes=0,
    )
    session.add(deletion)
    session.flush()
    return deletion


def remove(session: Session, deletion: Deletion, row: Domain | Tenant) -> None:
    """Removes a row with all it owns, or hides it and leaves the rest to the workers where that would take long."""
    if not _remove_rows(session, deletion, row):
        _note(deletion, _end_work(session, deletion))
        row.name, row.deleted_at = row.id, database_now(session)  # its name may be taken again


def _remove_rows(session: Session, deletion: Deletion, row: Domain | Tenant) -> bool:
    """Removes some of the rows, and with the last of them the row itself. Returns False as long as there are more."""
    removed, is_all = _remove_some(session, deletion)
    if is_all:  # only a few rows are left
        removed.update(_count_owned(session, type(row).__table__, row.id))  # type: ignore[arg-type]  # both are tables
        session.delete(row)
    _note(deletion, removed)
    return is_all


def _note(deletion: Deletion, removed: Counter[str]) -> None:
    counts = removed + Counter(deletion.rows)  # without those that are 0
    deletion.rows = dict(sorted(counts.items()))


def get(session: Session, id: str) -> Deletion:
    """Raises NotFound."""
    return require(session, Deletion, "deletion", id)


def page(session: Session, request: PageRequest, tenant_id: str | None = None) -> Page[Deletion]:
    """Returns a page of receipts, newest first; an administrator may ask for those of one tenant. Raises
    InvalidCursor."""
    statement = select(Deletion)
    if tenant_id is not None:
        statement = statement.where(Deletion.tenant_id == tenant_id)
    return fetch_page(session, statement, Deletion.id, request)


def advance(database: Database, store: ObjectStore) -> None:
    """Continues unfinished deletions, in a worker. Any number of workers may call it at any time.

    A deletion is done when nothing is left under its prefix, and every live worker has since evicted the deleted
    adapters. The next call removes what work in progress has stored meanwhile. Raises StorageUnavailable,
    DatabaseUnavailable.
    """
    with database.session(SYSTEM) as session:
        now = database_now(session)
        claimed = _unfinished(session, now)
        for deletion in claimed:
            deletion.claimed_until = now + _CLAIM
    for deletion in claimed:
        try:
            _advance(database, store, deletion.id, deletion.prefix, is_first=deletion.emptied_at is None)
        finally:
            _let_go(database, deletion.id)


def _advance(database: Database, store: ObjectStore, id: str, prefix: str, *, is_first: bool) -> None:
    until = time.monotonic() + _SECONDS
    while not _step(database, id):
        if time.monotonic() > until:
            return
    store.drop_parts(prefix, older_than_seconds=-_CLAIM.total_seconds())
    removed = 0
    while page := store.page(prefix, "", _PAGE):
        store.delete([item.key for item in page])
        removed += len(page)
        with database.session(SYSTEM) as session:
            if (row := find(session, Deletion, id, lock=True)) is not None:
                row.objects += len(page)
                row.bytes += sum(item.size for item in page)
                row.claimed_until = database_now(session) + _CLAIM
        if time.monotonic() > until:
            break
    if removed or is_first:
        logger.info("removed %d objects under %s", removed, prefix)
    with database.session(SYSTEM) as session:
        row, now = find(session, Deletion, id, lock=True), database_now(session)
        if row is None or row.done_at is not None:
            return
        if removed or row.emptied_at is None:
            row.emptied_at = now
        elif not fleet.some_worker_may_hold(session, row.emptied_at):
            row.done_at = now


def _step(database: Database, id: str) -> bool:
    """Removes some of the rows of a deletion. Returns True when none are left."""
    with database.session(SYSTEM) as session:
        deletion = find(session, Deletion, id, lock=True)
        row = None if deletion is None else _owner(session, deletion)
        if deletion is None or row is None:
            return True
        deletion.claimed_until = database_now(session) + _CLAIM
        return _remove_rows(session, deletion, row)


def _let_go(database: Database, id: str) -> None:
    with database.session(SYSTEM) as session:
        if (row := find(session, Deletion, id, lock=True)) is not None:
            row.claimed_until = None


def _unfinished(session: Session, now: datetime.datetime) -> Sequence[Deletion]:
    """Returns deletions of every tenant that are not done and that no worker has claimed, locked."""
    statement = select(Deletion).where(
        Deletion.done_at.is_(None), or_(Deletion.claimed_until.is_(None), Deletion.claimed_until < now)
    )
    statement = statement.order_by(Deletion.id).limit(_AT_ONCE).with_for_update(skip_locked=True)
    return session.execute(statement).scalars().all()


def _owner(session: Session, deletion: Deletion) -> Domain | Tenant | None:
    """Returns the row that is being deleted, locked; None when it is gone."""
    if deletion.kind == "domain":
        return session.get(Domain, deletion.target, with_for_update=True)
    return session.get(Tenant, deletion.target, with_for_update=True)


def _remove_some(session: Session, deletion: Deletion) -> tuple[Counter[str], bool]:
    """Removes at most `_ROWS` rows of each of the tables that may hold very many of one owner. Returns how many went,
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
        ids = [tuple(row) for row in session.execute(owned.limit(_ROWS))]
        is_all = is_all and len(ids) < _ROWS
        for model, key in keys.items():
            removed[model.__tablename__] += _removed(session, model, key.in_(ids))
    return removed, is_all


def _end_work(session: Session, deletion: Deletion) -> Counter[str]:
    """Deletes jobs, which a worker would start or continue, and keys. Returns the number of deleted rows by table."""
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


def _count_owned(session: Session, table: Table, id: str) -> dict[str, int]:
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
    owned: dict[str, list[ColumnElement[bool]]] = {table.name: [condition]}
    for other in Base.metadata.sorted_tables:
        for key in other.foreign_keys:
            if key.column.table is table and key.ondelete == "CASCADE" and other is not table:
                below = key.parent.in_(select(key.column).where(condition))
                for name, conditions in _owned(other, below).items():
                    owned.setdefault(name, []).extend(conditions)
    return owned
