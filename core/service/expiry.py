"""Steps of retention, one function for each kind of row. A step finds the oldest rows by an index, deletes them, and
records their stored objects for deletion.

Each step takes `before`, the time before which rows are too old, and `limit`, the max number of rows to touch. It
returns the number of rows that it found; fewer than `limit` means that no more are due. It runs in a transaction of its
own that sees every tenant's rows.
"""

import datetime
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Select, case, delete, func, or_, select, tuple_, update
from sqlalchemy.orm import Session

from core.service import discards
from core.service.datasets import removal
from core.service.db.base import Now
from core.service.db.models import (
    AuditEntry,
    Dataset,
    Deletion,
    Domain,
    Finetune,
    FinetuneEvent,
    Generation,
    GenerationImage,
    GenerationPreview,
    IdempotencyKey,
    Tenant,
    UsageDay,
    WebhookDelivery,
    Worker,
)
from core.service.db.paging import created_between
from core.service.db.session import database_now

Time = datetime.datetime
_POINTS = 200
"""Approximate number of points of a loss curve that stay when a fine-tune's progress events are thinned."""


def images(session: Session, before: Time, limit: int, *, keep_favourites: bool = False) -> int:
    """Deletes the images and previews of generations that ended before `before`; favourites are kept with
    `keep_favourites`. The rows of the generations stay, marked as expired."""
    due = select(Generation.id, Generation.domain_id).where(
        Generation.expired_at.is_(None), Generation.finished_at < before
    )
    rows = {row.id: row.domain_id for row in _oldest(session, due, Generation.finished_at, limit, Generation)}
    if not keep_favourites:
        rows |= with_kept_favourites(session, before, limit - len(rows))
    _expire(session, rows, keep_favourites=keep_favourites)
    return len(rows)


def images_of_domains(session: Session, now: Time, limit: int) -> int:
    """Does what `images` does for domains with a retention period of their own or of their tenant, counted back from
    `now`. Returns `limit` if there may be more."""
    days = func.coalesce(Domain.keep_image_days, Tenant.keep_image_days)
    keeps = case((Domain.keep_image_days.is_not(None), Domain.keep_favourites), else_=Tenant.keep_favourites)
    rules = select(days, keeps).join(Tenant, Tenant.id == Domain.tenant_id).where(days.is_not(None)).distinct()
    handled = 0
    for period, keep_favourites in session.execute(rules).all():
        before = now - datetime.timedelta(days=period)
        ruled = select(Domain.id).join(Tenant, Tenant.id == Domain.tenant_id)
        # The condition on the creation time makes this a search in the index (domain_id, id) of unexpired generations.
        in_ruled = Generation.domain_id.in_(ruled.where(days == period, keeps == keep_favourites))
        due = select(Generation.id, Generation.domain_id).where(
            in_ruled,
            Generation.expired_at.is_(None),
            Generation.finished_at < before,
            *created_between(Generation, Generation.id, None, before),
        )
        locked = due.limit(limit - handled).with_for_update(of=Generation, skip_locked=True)
        rows = {row.id: row.domain_id for row in session.execute(locked)}
        if not keep_favourites:
            rows |= with_kept_favourites(session, before, limit - handled - len(rows), in_ruled)
        _expire(session, rows, keep_favourites=keep_favourites)
        handled += len(rows)
    return handled


def with_kept_favourites(
    session: Session, before: Time, limit: int, *conditions: ColumnElement[bool]
) -> dict[str, str]:
    """Returns up to `limit` expired generations that ended before `before` and whose favourites another rule, or this
    one before it was changed, has kept: their ids, with the ids of their domains. Locks them. Searches the index of
    favourites, which are few."""
    image = GenerationImage
    created, is_old = created_between(Generation, image.generation_id, None, before)
    favourites = select(image.generation_id).where(image.favourite_since.is_not(None), is_old)
    kept = select(Generation.id, Generation.domain_id).where(
        Generation.id.in_(favourites),
        created,
        Generation.expired_at.is_not(None),
        Generation.finished_at < before,
        *conditions,
    )
    rows = session.execute(kept.limit(limit).with_for_update(of=Generation, skip_locked=True))
    return {row.id: row.domain_id for row in rows}


def generations(session: Session, before: Time, limit: int) -> int:
    """Deletes generations that ended before `before`, with their images and previews."""
    due = select(Generation.id, Generation.domain_id).where(Generation.finished_at < before)
    rows = _oldest(session, due, Generation.finished_at, limit, Generation)
    _remove_pictures(session, {row.id: row.domain_id for row in rows})
    session.execute(delete(Generation).where(Generation.id.in_([row.id for row in rows])))
    return len(rows)


def previews(session: Session, before: Time, limit: int) -> int:
    """Deletes image previews that were created before `before`."""
    model = GenerationPreview
    due = select(model, Generation.domain_id).join(Generation, Generation.id == model.generation_id)
    rows = _oldest(session, due.where(model.created_at < before), model.created_at, limit, model)
    keys = [(row.generation_id, row.index, row.step) for row, _ in rows]
    session.execute(delete(model).where(tuple_(model.generation_id, model.index, model.step).in_(keys)))
    discards.discard(session, [(domain, row.tenant_id, row.object_key, row.size_bytes) for row, domain in rows])
    return len(rows)


def samples(session: Session, before: Time, limit: int) -> int:
    """Deletes the sample images of one fine-tune that ended before `before`, with their events. Returns `limit`, since
    there may be more such fine-tunes, or 0 if there is none."""
    finetune = _oldest_finetune(session, Finetune.samples_removed_at.is_(None), before)
    if finetune is None:
        return 0
    event = FinetuneEvent
    shown = delete(event).where(event.finetune_id == finetune.id, event.type == "sample").returning(event.data)
    data = session.execute(shown).scalars().all()
    finetune.samples_removed_at = database_now(session)
    discards.discard(
        session,
        [(finetune.domain_id, finetune.tenant_id, sample["key"], sample.get("size_bytes", 0)) for sample in data],
    )
    return limit


def finetune_events(session: Session, before: Time, limit: int) -> int:
    """Deletes up to `limit` progress and evaluation events of one fine-tune that ended before `before`. Of each type
    about `_POINTS` stay, the first and the last among them. Returns `limit`, since there may be more events or
    fine-tunes, or 0 if there is no such fine-tune."""
    finetune = _oldest_finetune(session, Finetune.events_thinned_at.is_(None), before)
    if finetune is None:
        return 0
    event = FinetuneEvent
    curves = select(event.type, event.id, event.data["step"].as_integer()).where(
        event.finetune_id == finetune.id, event.type.in_(("progress", "evaluation"))
    )
    points = session.execute(curves.order_by(event.id)).all()
    # Keeps each curve's first event in each of `_POINTS` ranges of steps. The next call keeps the same events.
    first = {(type, step * _POINTS // finetune.training.steps): id for type, id, step in reversed(points)}
    last = {type: id for type, id, _ in points}
    kept = {*first.values(), *last.values()}
    doomed = [id for _, id, _ in points if id not in kept][:limit]
    session.execute(delete(event).where(event.finetune_id == finetune.id, event.id.in_(doomed)))
    if len(doomed) < limit:
        finetune.events_thinned_at = database_now(session)
    return limit


def checkpoints(session: Session, before: Time, limit: int) -> int:
    """Deletes the last two checkpoints of one fine-tune that ended before `before`, since no attempt will continue from
    them. Returns `limit`, since there may be more such fine-tunes, or 0 if there is none."""
    finetune = _oldest_finetune(session, Finetune.checkpoint_key.is_not(None), before)
    if finetune is None or finetune.checkpoint_key is None:
        return 0
    gone = [(finetune.domain_id, finetune.tenant_id, finetune.checkpoint_key, finetune.checkpoint_bytes)]
    if (previous := finetune.previous_checkpoint_key) is not None:
        gone.append((finetune.domain_id, finetune.tenant_id, previous, finetune.previous_checkpoint_bytes))
    finetune.checkpoint_key = finetune.checkpoint_sha256 = None
    finetune.previous_checkpoint_key = finetune.previous_checkpoint_sha256 = None
    finetune.checkpoint_bytes = finetune.previous_checkpoint_bytes = 0
    discards.discard(session, gone)
    return limit


def rejected_archives(session: Session, before: Time, limit: int) -> int:
    """Deletes the archives of data sets that were rejected before `before`, and releases the zips of versions whose
    worker was lost. The rows of the data sets stay, with the reports of what was wrong."""
    has_zips = or_(Dataset.archive_key != "", Dataset.sources != [])
    due = select(Dataset).where(Dataset.status == "rejected", has_zips, Dataset.finished_at < before)
    rows = [row for (row,) in _oldest(session, due, Dataset.finished_at, limit, Dataset)]
    versions = [row for row in rows if not row.archive_key]
    archives = [row for row in rows if row.archive_key]
    gone = [(row.domain_id, row.tenant_id, row.archive_key, row.size_bytes) for row in archives]
    for row in archives:
        row.archive_key, row.archive_sha256 = "", ""
    for row in sorted(versions, key=lambda version: version.domain_id):  # always in the same order, against deadlocks
        removal.release(session, row)
    discards.discard(session, gone)
    return len(rows)


def deliveries(session: Session, before: Time, limit: int) -> int:
    """Deletes webhook deliveries that were created before `before`, whether they succeeded or not."""
    return _remove(
        session, WebhookDelivery, (WebhookDelivery.id,), WebhookDelivery.created_at, before=before, limit=limit
    )


def audit_entries(session: Session, before: Time, limit: int) -> int:
    """Deletes entries of the audit log that were created before `before`. Finds the oldest entries by their ids, which
    grow with time, so that no index on the time is needed."""
    oldest = session.execute(select(AuditEntry.id, AuditEntry.created_at).order_by(AuditEntry.id).limit(limit))
    ids = [id for id, created_at in oldest if created_at < before]
    session.execute(delete(AuditEntry).where(AuditEntry.id.in_(ids)))
    return len(ids)


def receipts(session: Session, before: Time, limit: int) -> int:
    """Deletes the receipts of domain and tenant deletions that were complete before `before`."""
    return _remove(session, Deletion, (Deletion.id,), Deletion.done_at, before=before, limit=limit)


def usage_days(session: Session, before: Time, limit: int) -> int:
    """Deletes rows of daily usage for days before the date of `before`."""
    key = (UsageDay.tenant_id, UsageDay.day)
    return _remove(session, UsageDay, key, UsageDay.day, before=before.date(), limit=limit)


def idempotency_keys(session: Session, before: Time, limit: int) -> int:
    """Deletes idempotency keys, with their stored responses, that were first used before `before`."""
    key = (IdempotencyKey.scope, IdempotencyKey.key)
    return _remove(session, IdempotencyKey, key, IdempotencyKey.created_at, before=before, limit=limit)


def lost_workers(session: Session, before: Time, limit: int) -> int:
    """Deletes the rows of workers whose last heartbeat was before `before`. A worker that shuts down cleanly
    deletes its own row."""
    return _remove(session, Worker, (Worker.id,), Worker.heartbeat_at, before=before, limit=limit)


def _oldest(session: Session, due: Select[*tuple[Any, ...]], age: Any, limit: int, model: type[Any]) -> Sequence[Any]:
    """Returns up to `limit` rows of the query `due`, ordered by the column `age`, and locks the rows of `model`. Skips
    rows that another transaction has locked."""
    locked = due.order_by(age).limit(limit).with_for_update(of=model, skip_locked=True)
    return session.execute(locked).all()


def _oldest_finetune(session: Session, condition: ColumnElement[bool], before: Time) -> Finetune | None:
    due = select(Finetune).where(condition, Finetune.finished_at < before)
    return next((row for (row,) in _oldest(session, due, Finetune.finished_at, 1, Finetune)), None)


def _remove(
    session: Session, model: type[Any], key: tuple[Any, ...], age: Any, *, before: datetime.date, limit: int
) -> int:
    """Deletes up to `limit` rows of `model` whose column `age` is before `before`, the oldest first. `key` has the
    columns of the primary key. Returns the number of deleted rows."""
    rows = _oldest(session, select(*key).where(age < before), age, limit, model)
    session.execute(delete(model).where(tuple_(*key).in_([tuple(row) for row in rows])))
    return len(rows)


def _expire(session: Session, domains: Mapping[str, str], *, keep_favourites: bool) -> None:
    """Marks generations as expired, and deletes their images and previews. `domains` maps each generation's id to the
    id of its domain."""
    session.execute(update(Generation).where(Generation.id.in_(domains)).values(expired_at=Now()))
    _remove_pictures(session, domains, keep_favourites=keep_favourites)  # last: it locks the domain's count of bytes


def _remove_pictures(session: Session, domains: Mapping[str, str], *, keep_favourites: bool = False) -> None:
    """Deletes all images and previews of generations, apart from favourites with `keep_favourites`. `domains` maps each
    generation's id to the id of its domain."""
    gone: list[tuple[str, str, str, int]] = []
    for model in (GenerationImage, GenerationPreview):
        removed = delete(model).where(model.generation_id.in_(domains))
        if keep_favourites and model is GenerationImage:
            removed = removed.where(GenerationImage.favourite_since.is_(None))
        columns = (model.generation_id, model.tenant_id, model.object_key, model.size_bytes)
        rows = session.execute(removed.returning(*columns))
        gone += [(domains[id], tenant, key, size) for id, tenant, key, size in rows]
    discards.discard(session, gone)
