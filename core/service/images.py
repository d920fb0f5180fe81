"""Generated images of a tenant: lists by filters, favourites and labels, and deletion of single images and of whole
generations."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import ColumnElement, select, tuple_
from sqlalchemy import delete as delete_rows
from sqlalchemy.orm import Session, contains_eager

from core.artifact.errors import InvalidRequest, NotFound
from core.artifact.jobs import ENDED
from core.service import audit, deletions, discards, domains, generations, idempotency, metering
from core.service.db.lookup import require
from core.service.db.models import Deletion, Generation, GenerationImage, GenerationPreview
from core.service.db.paging import Page, PageRequest, page_of
from core.service.db.session import database_now
from core.service.errors import InvalidCursor, NotEnded
from core.service.generations import GenerationFilter

_ID = re.compile(r"(gen_[0-9a-z]{26})/([0-9]{1,9})")
_POSITION = (GenerationImage.generation_id, GenerationImage.index)
"""Columns that order images by time. They are also the primary key."""


@dataclass(frozen=True, kw_only=True)
class ImageFilter(GenerationFilter):
    """Selection of images. None selects all."""

    seed: int | None = None
    favourite: bool | None = None
    label: str | None = None
    """Text that the label must contain, in upper or lower case."""


def page(session: Session, wanted: ImageFilter, request: PageRequest) -> Page[GenerationImage]:
    """Returns a page of the tenant's images that `wanted` selects, with their generations, newest first. Within a
    generation, the image with the highest index comes first, so that an index scan returns rows in order. Raises
    NotFound for a domain that does not exist, InvalidCursor."""
    if wanted.domain_id is not None:
        domains.get(session, wanted.domain_id)
    image = GenerationImage
    conditions = wanted.conditions(image.domain_id, image.generation_id)
    if wanted.seed is not None:
        conditions.append(image.seed == wanted.seed)
    if wanted.favourite is not None:
        conditions.append(image.favourite_since.is_not(None) if wanted.favourite else image.favourite_since.is_(None))
    if wanted.label is not None:
        conditions += [image.label.is_not(None), image.label.icontains(wanted.label, autoescape=True)]
    if request.cursor is not None:
        conditions.append(tuple_(*_POSITION) < tuple_(*_after(request.cursor)))
    statement = select(image).join(image.generation).options(contains_eager(image.generation)).where(*conditions)
    newest = statement.order_by(image.generation_id.desc(), image.index.desc()).limit(request.limit + 1)
    return page_of(list(session.scalars(newest)), request, lambda row: row.id)


def select_many(session: Session, ids: Sequence[str]) -> list[GenerationImage]:
    """Returns images by their ids, with their generations, ordered by generation and index. Raises InvalidRequest for a
    malformed id, and NotFound for one without an image."""
    keys = sorted({key_of(id) for id in ids})
    rows = _with_generations(session, tuple_(*_POSITION).in_(keys))
    if missing := set(keys) - {(row.generation_id, row.index) for row in rows}:
        generation_id, index = min(missing)
        raise NotFound("image", f"{generation_id}/{index}")
    return rows


def of_generation(session: Session, id: str) -> list[GenerationImage]:
    """Returns the images of a generation, by their index. Raises NotFound if it has none, ImageExpired if retention has
    deleted them."""
    rows = _with_generations(session, GenerationImage.generation_id == id)
    return rows or [generations.image(session, id, 0)]


def change(session: Session, generation_id: str, index: int, changes: dict[str, object]) -> GenerationImage:
    """Changes an image's `favourite` or `label`, or both. Raises NotFound, ImageExpired."""
    image = generations.image(session, generation_id, index, lock=True)
    if "favourite" in changes and bool(changes["favourite"]) != image.favourite:
        image.favourite_since = database_now(session) if changes["favourite"] else None
        image.generation.expired_at = None  # retention decides again, now that the image has or lacks this mark
    if "label" in changes:
        image.label = None if changes["label"] is None else str(changes["label"])
    session.flush()
    audit.record(session, "image.change", image.id, detail=changes)
    return image


def delete(session: Session, generation_id: str, index: int) -> None:
    """Deletes an image with its previews. Workers delete the stored objects. Raises NotFound, ImageExpired."""
    generations.image(session, generation_id, index)
    delete_many(session, [f"{generation_id}/{index}"])


def delete_many(session: Session, ids: Sequence[str]) -> list[str]:
    """Deletes images by their ids, with their previews, and returns the ids of the deleted images. Ids without an image
    are skipped, so that the call can be repeated. Workers delete the stored objects. Raises InvalidRequest for a
    malformed id."""
    image, preview = GenerationImage, GenerationPreview
    doomed = tuple_(*_POSITION).in_(sorted({key_of(id) for id in ids}))
    columns = (*_POSITION, image.domain_id, image.tenant_id, image.object_key, image.size_bytes)
    rows = session.execute(delete_rows(image).where(doomed).returning(*columns)).all()
    domain_ids = {(row.generation_id, row.index): row.domain_id for row in rows}
    shown = tuple_(preview.generation_id, preview.index).in_(list(domain_ids))
    removed = delete_rows(preview).where(shown)
    previews = session.execute(
        removed.returning(
            preview.generation_id, preview.index, preview.tenant_id, preview.object_key, preview.size_bytes
        )
    ).all()
    deleted = [f"{row.generation_id}/{row.index}" for row in sorted(rows)]
    for id in deleted:
        audit.record(session, "image.delete", id)
    discards.discard(
        session,
        [
            (domain_ids[row.generation_id, row.index], row.tenant_id, row.object_key, row.size_bytes)
            for row in (*rows, *previews)
        ],
    )
    return deleted


def delete_generation(session: Session, id: str) -> Deletion:
    """Deletes a generation that has ended, with its images and previews, and returns the receipt of the deletion.
    Workers delete the stored objects later. Raises NotFound, NotEnded."""
    generation = require(session, Generation, "generation", id, lock=True)
    if generation.status not in ENDED:
        raise NotEnded("generation", id, generation.status)
    counts, size_bytes = {"generations": 1}, 0
    for model in (GenerationImage, GenerationPreview):
        removed = delete_rows(model).where(model.generation_id == id).returning(model.size_bytes)
        sizes = session.scalars(removed).all()
        counts |= {model.__tablename__: len(sizes)} if sizes else {}
        size_bytes += sum(sizes)
    prefix = f"{domains.folder(generation.tenant_id, generation.domain_id)}generations/{id}/"
    deletion = deletions.receipt(session, "generation", id, generation.tenant_id, prefix, rows=counts)
    idempotency.forget(session, generation.tenant_id, id)
    session.delete(generation)
    audit.record(session, "generation.delete", id, detail={"deletion": deletion.id})
    session.flush()
    metering.add_stored_bytes(session, generation.domain_id, -size_bytes)
    return deletion


def _with_generations(session: Session, condition: ColumnElement[bool]) -> list[GenerationImage]:
    joined = (
        select(GenerationImage).join(GenerationImage.generation).options(contains_eager(GenerationImage.generation))
    )
    return list(session.scalars(joined.where(condition).order_by(*_POSITION)))


def key_of(id: str) -> tuple[str, int]:
    """Returns the generation's id and the index that an image id such as `gen_01jd…/0` contains. Raises
    InvalidRequest."""
    match = _ID.fullmatch(id)
    if match is None:
        raise InvalidRequest("ids", f"'{id[:60]}' is no image id, such as 'gen_01m84b6j5r0q4d8n8c6t8y9k2p/0'")
    return match.group(1), int(match.group(2))


def _after(cursor: str) -> tuple[str, int]:
    match = _ID.fullmatch(cursor)
    if match is None:
        raise InvalidCursor
    return match.group(1), int(match.group(2))
