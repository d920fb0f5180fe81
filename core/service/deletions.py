"""Deletes a domain or a tenant with all it owns, and keeps receipts of deletions.

The request's transaction writes the receipt and removes the database rows; where there are very many rows, it hides the
domain or tenant, and workers remove the rows in steps. Workers then delete the stored objects and evict the adapters
from memory. In the end the receipt has the time when all of this was gone.
"""

import datetime
import logging
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from sqlalchemy import ColumnElement, Select, Table, Tuple, and_, delete, func, or_, select, tuple_, update
from sqlalchemy.orm import Session

from core.artifact.jobs import UNFINISHED
from core.service import fleet, metering
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
from core.service.db.models.datasets import thumbnails_key
from core.service.db.paging import Page, PageRequest, fetch_page
from core.service.db.session import Database, database_now
from core.service.storage import ObjectStore
from core.service.tenancy import SYSTEM

logger = logging.getLogger(__name__)
DeletionKind = Literal["domain", "tenant", "dataset", "finetune", "adapter", "generation"]
"""Kind of the object that a receipt is for."""
_PAGE = 500
_ROWS = 500
"""Max rows of each large table that one transaction removes: about 0.1 s."""
_SECONDS = 2.0
"""Time limit of one call of `_advance`, so that the worker's other chores have their turn; the next call continues."""
_AT_ONCE = 20
_CLAIM = datetime.timedelta(minutes=5)
"""Time that a worker has to delete a page of objects; then another worker may continue the deletion."""


def record(session: Session, row: Domain | Tenant, prefix: str) -> Deletion:
    """Creates the receipt of the deletion of a domain or tenant, which the caller is about to delete. `prefix` is the
    storage key prefix of the objects that the domain or tenant owns."""
    kind: DeletionKind = "domain" if isinstance(row, Domain) else "tenant"
    column = Adapter.domain_id if kind == "domain" else Adapter.tenant_id
    adapters = session.scalars(select(Adapter.sha256).where(column == row.id).distinct().order_by(Adapter.sha256))
    tenant_id = row.tenant_id if isinstance(row, Domain) else row.id
    return receipt(session, kind, row.id, tenant_id, prefix, adapters=adapters.all())


def receipt(
    session: Session,
    kind: DeletionKind,
    target: str,
    tenant_id: str,
    prefix: str,
    *,
    rows: Mapping[str, int] | None = None,
    adapters: Sequence[str] = (),
) -> Deletion:
    """Creates the receipt of the deletion of the object with the id `target`. The caller deletes its database rows in
    the same transaction: `rows` counts them by table. Workers then delete all objects under the storage key prefix, and
    evict the adapters with these SHA-256."""
    deletion = Deletion(
        id=new_id("del"),
        tenant_id=tenant_id,
        kind=kind,
        target=target,
        actor_key_id=scope_of(session).key_id,
        prefix=prefix,
        rows=dict(rows or {}),
        adapters=list(adapters),
        objects=0,
        bytes=0,
    )
    session.add(deletion)
    session.flush()
    return deletion


def remove(session: Session, deletion: Deletion, row: Domain | Tenant) -> None:
    """Deletes the row of a domain or tenant with all rows that the domain or tenant owns. If there are too many for one
    transaction, hides the domain or tenant and deletes its unfinished jobs and API keys; workers delete the rest."""
    owned = Generation.domain_id if isinstance(row, Domain) else Generation.tenant_id
    images, model_evaluations = metering.unmetered(session, owned == row.id, Generation.status.in_(UNFINISHED))
    if not _remove_rows(session, deletion, row):
        _note(deletion, _end_work(session, deletion))
        row.name, row.deleted_at = row.id, database_now(session)  # frees its name for another domain or tenant
        if isinstance(row, Tenant):  # signed URLs reach the rows of domains without knowing their tenant
            session.execute(update(Domain).where(Domain.tenant_id == row.id).values(deleted_at=row.deleted_at))
    # Last, since jobs that are deleted here lock their own row before the tenant's usage.
    metering.meter(session, deletion.tenant_id, images=images, model_evaluations=model_evaluations)


def _remove_rows(session: Session, deletion: Deletion, row: Domain | Tenant) -> bool:
    """Deletes some of the rows that a domain or tenant owns: at most `_ROWS` rows of each large table. If no others are
    left in the large tables, also deletes the row of the domain or tenant, with its rows in all other tables, and
    returns True. Otherwise returns False."""
    removed, is_all = _remove_some(session, deletion)
    if is_all:  # only a few rows are left
        removed.update(_count_owned(session, type(row).__table__, row.id))  # type: ignore[arg-type]  # both are tables
        session.delete(row)
    _note(deletion, removed)
    return is_all


def _note(deletion: Deletion, removed: Counter[str]) -> None:
    counts = removed + Counter(deletion.rows)  # `+` drops counts of 0
    deletion.rows = dict(sorted(counts.items()))


def get(session: Session, id: str) -> Deletion:
    """Returns the receipt of a deletion by the receipt's id. Raises NotFound."""
    return require(session, Deletion, "deletion", id)


def page(session: Session, request: PageRequest, tenant_id: str | None = None) -> Page[Deletion]:
    """Returns a page of receipts of deletions, newest first; with `tenant_id`, only that tenant's, for an
    administrator. Raises InvalidCursor."""
    statement = select(Deletion)
    if tenant_id is not None:
        statement = statement.where(Deletion.tenant_id == tenant_id)
    return fetch_page(session, statement, Deletion.id, request)


def advance(database: Database, store: ObjectStore) -> None:
    """Continues unfinished deletions. Workers call it again and again; any number of workers may call it concurrently.

    Each call also deletes the objects that jobs in progress have stored since the previous call. A deletion is done
    when no object is left under its storage key prefix, and every live worker has since evicted the deleted adapters.
    Raises StorageUnavailable, DatabaseUnavailable.
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
    removed, last, kept = 0, "", _kept(database, id)
    while page := store.page(prefix, last, _PAGE):
        last = page[-1].key
        page = [item for item in page if item.key not in kept]
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


def _kept(database: Database, id: str) -> set[str]:
    """Returns the storage keys of zips and thumbnails that versions of a deleted data set may still need."""
    with database.session(SYSTEM) as session:
        deletion = find(session, Deletion, id)
        if deletion is None or deletion.kind != "dataset":
            return set()
        sources = session.scalars(select(Dataset.sources).where(Dataset.tenant_id == deletion.tenant_id))
        keys = {zip["key"] for zips in sources for zip in zips}
    return keys | {thumbnails_key(key) for key in keys}


def _step(database: Database, id: str) -> bool:
    """Removes some of a deletion's database rows in one transaction. Returns True when no rows are left."""
    with database.session(SYSTEM) as session:
        deletion = find(session, Deletion, id, lock=True)
        row = None if deletion is None else _owner(session, deletion)
        if deletion is None or row is None:
            return True
        deletion.claimed_until = database_now(session) + _CLAIM
        return _remove_rows(session, deletion, row)


def _let_go(database: Database, id: str) -> None:
    """Ends the claim on a deletion, which moves the deletion behind the tenant's others."""
    with database.session(SYSTEM) as session:
        if (row := find(session, Deletion, id, lock=True)) is not None:
            row.claimed_until = database_now(session)


def _unfinished(session: Session, now: datetime.datetime) -> Sequence[Deletion]:
    """Returns, locked, up to `_AT_ONCE` deletions that are not done and that no worker has claimed: in turn from each
    tenant, the one that has waited longest, so that neither another tenant's deletions nor those that wait for workers
    to evict their adapters delay a deletion."""
    due = (Deletion.done_at.is_(None), or_(Deletion.claimed_until.is_(None), Deletion.claimed_until <= now))
    waits_since = func.coalesce(Deletion.claimed_until, Deletion.created_at)
    rank = func.row_number().over(partition_by=Deletion.tenant_id, order_by=(waits_since, Deletion.id))
    ranked = select(Deletion.id, rank.label("rank")).where(*due).subquery()
    statement = select(Deletion).join(ranked, ranked.c.id == Deletion.id).where(*due)
    statement = statement.order_by(ranked.c.rank, waits_since, Deletion.id).limit(_AT_ONCE)
    return session.execute(statement.with_for_update(of=Deletion, skip_locked=True)).scalars().all()


def _owner(session: Session, deletion: Deletion) -> Domain | Tenant | None:
    """Returns the row of the domain or tenant that is being deleted, locked, or None when the row is gone. Other kinds
    of rows are gone since the request."""
    if deletion.kind == "domain":
        return session.get(Domain, deletion.target, with_for_update=True)
    if deletion.kind == "tenant":
        return session.get(Tenant, deletion.target, with_for_update=True)
    return None


def _remove_some(session: Session, deletion: Deletion) -> tuple[Counter[str], bool]:
    """Deletes at most `_ROWS` generations (with images and previews), fine-tune events and webhook deliveries each: an
    owner may have very many of them. Returns the count of deleted rows by table, and whether none of them are left."""
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
    """Deletes unfinished jobs, which a worker would otherwise start or continue; of a tenant also deletes the API keys
    and disables the webhooks. Returns the number of deleted rows by table."""
    column = "domain_id" if deletion.kind == "domain" else "tenant_id"
    unfinished = select(Finetune.id).where(getattr(Finetune, column) == deletion.target, Finetune.finished_at.is_(None))
    doomed: list[tuple[type[Any], ColumnElement[bool]]] = [(FinetuneEvent, FinetuneEvent.finetune_id.in_(unfinished))]
    for model in (Generation, Finetune, Dataset):
        waits = model.status.in_(("queued", "running", "validating"))  # `status` is indexed
        doomed.append((model, and_(getattr(model, column) == deletion.target, waits)))
    if deletion.kind == "tenant":
        doomed.append((ApiKey, ApiKey.tenant_id == deletion.target))
        silenced = update(Webhook).where(Webhook.tenant_id == deletion.target)
        session.execute(silenced.values(status="disabled", updated_at=Webhook.updated_at))
    return Counter({model.__tablename__: _removed(session, model, condition) for model, condition in doomed})


def _removed(session: Session, model: type[Any], condition: ColumnElement[bool]) -> int:
    """Deletes the rows of one table that satisfy `condition`, and returns their number."""
    return len(session.scalars(delete(model).where(condition).returning(model.tenant_id)).all())


def _count_owned(session: Session, table: Table, id: str) -> dict[str, int]:
    """Counts, per table, the rows that deleting the row `id` of `table` would delete, by following cascading foreign
    keys recursively. The row itself counts too."""
    counts = {}
    for name, conditions in _owned(table, table.c.id == id).items():
        owned = Base.metadata.tables[name]
        if name == StoredBytes.__tablename__:
            continue  # bookkeeping of this service, not something that the tenant owned
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
