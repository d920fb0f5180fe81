"""Deletion of data sets."""

from sqlalchemy import select
from sqlalchemy.orm import Session

from core.service import audit, deletions, discards, domains, idempotency, metering
from core.service.datasets.service import folder, get
from core.service.db.models import Dataset, Deletion, Finetune
from core.service.db.models.datasets import thumbnails_key
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
    domains.get(session, dataset.domain_id, lock=True)  # so that of two deletions the last frees the zips of both
    prefix = folder(dataset.tenant_id, dataset.domain_id, id)
    rows = {Dataset.__tablename__: 1}
    deletion = deletions.receipt(session, "dataset", id, dataset.tenant_id, prefix, rows=rows)
    idempotency.forget(session, dataset.tenant_id, id)
    session.delete(dataset)
    _free(session, dataset, prefix)
    audit.record(session, "dataset.delete", id, detail={"deletion": deletion.id})
    return deletion


def _free(session: Session, dataset: Dataset, prefix: str) -> None:
    """Subtracts the sizes of the zips that no other data set needs any more from the domain's stored bytes. Those that
    are not under the prefix, which is deleted anyway, are recorded for deletion."""
    others = session.scalars(select(Dataset).where(Dataset.domain_id == dataset.domain_id)).all()
    needed = {zip["key"] for other in others for zip in other.zips}
    freed = [zip for zip in dataset.zips if zip["key"] not in needed]
    metering.add_stored_bytes(session, dataset.domain_id, -sum(zip["size_bytes"] for zip in freed))
    keys = [zip["key"] for zip in freed if not zip["key"].startswith(prefix)]
    discards.record(session, [(dataset.tenant_id, key) for each in keys for key in (each, thumbnails_key(each))])
