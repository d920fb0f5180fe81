"""Deletion of data sets."""

from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session, load_only

from core.service import audit, deletions, discards, domains, idempotency, metering
from core.service.datasets.service import folder, get
from core.service.db.lookup import find
from core.service.db.models import Dataset, Deletion, Domain, Finetune
from core.service.db.models.datasets import thumbnails_key
from core.service.errors import DatasetInUse


def delete(session: Session, id: str) -> Deletion:
    """Deletes a data set with its report, its images and its thumbnails, and returns the receipt of the deletion.
    Workers delete the stored objects later. Raises NotFound, and DatasetInUse while an unfinished fine-tune or copy
    needs the data set."""
    dataset = get(session, id, lock=True)
    finetunes = select(Finetune.id).where(Finetune.dataset_id == id, Finetune.finished_at.is_(None))
    copies = domains.unfinished_copies(dataset.domain_id).where(Dataset.parent_id == id)
    if jobs := [job for jobs in (finetunes, copies) for job in session.scalars(jobs.limit(domains.NAMED_JOBS))]:
        raise DatasetInUse(id, jobs)
    domains.get(session, dataset.domain_id, lock=True)  # so that of two deletions the last frees the zips of both
    prefix = folder(dataset.tenant_id, dataset.domain_id, id)
    rows = {Dataset.__tablename__: 1}
    deletion = deletions.receipt(session, "dataset", id, dataset.tenant_id, prefix, rows=rows)
    idempotency.forget(session, dataset.tenant_id, id)
    session.delete(dataset)
    keys = _free(session, dataset, dataset.zips)
    _discard(session, dataset, [key for key in keys if not key.startswith(prefix)])  # the prefix is deleted anyway
    audit.record(session, "dataset.delete", id, detail={"deletion": deletion.id})
    return deletion


def release(session: Session, version: Dataset) -> None:
    """Removes the images of a rejected version or copy, which are of no use, with the zips that no other data set
    needs. Its row stays."""
    find(session, Domain, version.domain_id, lock=True)  # for the same reason as in `delete`
    zips, version.sources, version.members = version.sources, [], []
    _discard(session, version, _free(session, version, zips))


def _free(session: Session, dataset: Dataset, zips: list[dict[str, Any]]) -> list[str]:
    """Subtracts the sizes of those of a data set's former zips that no data set needs any more from the domain's stored
    bytes. Returns their storage keys."""
    # Without the other columns, since the classes and reports of a domain's data sets may take hundreds of megabytes.
    columns = load_only(Dataset.archive_key, Dataset.archive_sha256, Dataset.size_bytes, Dataset.sources)
    others = session.scalars(select(Dataset).where(Dataset.domain_id == dataset.domain_id).options(columns)).all()
    needed = {zip["key"] for other in others for zip in other.zips}
    freed = [zip for zip in zips if zip["key"] not in needed]
    metering.add_stored_bytes(session, dataset.domain_id, -sum(zip["size_bytes"] for zip in freed))
    return [zip["key"] for zip in freed]


def _discard(session: Session, dataset: Dataset, keys: list[str]) -> None:
    discards.record(session, [(dataset.tenant_id, key) for each in keys for key in (each, thumbnails_key(each))])
