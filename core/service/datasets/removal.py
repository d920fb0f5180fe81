"""Deletion of data sets."""

from sqlalchemy import select
from sqlalchemy.orm import Session

from core.service import audit, deletions, idempotency, metering
from core.service.datasets.service import folder, get
from core.service.db.models import Dataset, Deletion, Finetune
from core.service.errors import DatasetInUse

_NAMED = 5
"""Max fine-tunes that an error message names."""


def delete(session: Session, id: str) -> Deletion:
    """Deletes a data set with its report, its images and its thumbnails, and returns the receipt of the deletion.
    Workers delete the stored objects later. Raises NotFound, and DatasetInUse while an unfinished fine-tune needs the
    data set."""
    dataset = get(session, id, lock=True)
    unfinished = select(Finetune.id).where(Finetune.dataset_id == id, Finetune.finished_at.is_(None))
    if needed := session.scalars(unfinished.order_by(Finetune.id).limit(_NAMED)).all():
        raise DatasetInUse(id, needed)
    prefix = folder(dataset.tenant_id, dataset.domain_id, id)
    rows = {Dataset.__tablename__: 1}
    deletion = deletions.receipt(session, "dataset", id, dataset.tenant_id, prefix, rows=rows)
    idempotency.forget(session, dataset.tenant_id, id)
    session.delete(dataset)
    if dataset.archive_key:
        metering.add_stored_bytes(session, dataset.domain_id, -dataset.size_bytes)
    audit.record(session, "dataset.delete", id, detail={"deletion": deletion.id})
    return deletion
