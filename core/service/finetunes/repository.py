"""Queries on fine-tunes and their events."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from core.service.db.models import Adapter, Finetune, FinetuneEvent


def events_after(session: Session, finetune_id: str, last_id: int, limit: int = 500) -> Sequence[FinetuneEvent]:
    statement = (
        select(FinetuneEvent)
        .where(FinetuneEvent.finetune_id == finetune_id, FinetuneEvent.id > last_id)
        .order_by(FinetuneEvent.id)
        .limit(limit)
    )
    return session.execute(statement).scalars().all()


def points(session: Session, finetune_id: str, type: str, most: int) -> Sequence[dict[str, Any]]:
    """Returns the data of a fine-tune's events of one type in order: at most `most` events at even spacing, plus the
    last event."""
    number = func.row_number().over(order_by=FinetuneEvent.id).label("number")
    columns = (FinetuneEvent.id, FinetuneEvent.data, number, func.count().over().label("count"))
    statement = select(*columns)
    points = statement.where(FinetuneEvent.finetune_id == finetune_id, FinetuneEvent.type == type).subquery()
    stride = (points.c.count + most - 1) // most
    is_kept = ((points.c.number - 1) % stride == 0) | (points.c.number == points.c.count)
    return session.scalars(select(points.c.data).where(is_kept).order_by(points.c.id)).all()


def seconds_per_image(session: Session, method: str, image_size: int | None, base_digest: str) -> float | None:
    """Returns the device time per training image and step, in seconds, averaged over the last five fine-tunes that
    published an adapter for the same method, image size and base. Returns None if there are none."""
    last = (
        select(Finetune.seconds, Finetune.step, Finetune.training)
        .join(Adapter, Adapter.finetune_id == Finetune.id)
        .where(Finetune.method == method, Adapter.base_digest == base_digest)
        .where(Finetune.image_size.is_not_distinct_from(image_size))
        .order_by(Finetune.id.desc())
        .limit(5)
    )
    runs = session.execute(last).all()
    images = sum(step * training.batch_size for _, step, training in runs)
    return sum(seconds for seconds, _, _ in runs) / images if images else None


def adapter_of(session: Session, finetune_id: str) -> str | None:
    """Returns the id of the adapter that a fine-tune trained, or None if there is none (any more)."""
    return session.scalar(select(Adapter.id).where(Adapter.finetune_id == finetune_id))


def events_and_bytes(session: Session, finetune_id: str) -> tuple[int, int]:
    """Returns the number of a fine-tune's events, and the total size of its sample images in bytes."""
    owned = FinetuneEvent.finetune_id == finetune_id
    count = session.scalar(select(func.count()).select_from(FinetuneEvent).where(owned)) or 0
    samples = session.scalars(select(FinetuneEvent.data).where(owned, FinetuneEvent.type == "sample"))
    return count, sum(sample.get("size_bytes", 0) for sample in samples)
