"""Deletes orphans: stored objects that no database row references. Examples are results of lost attempts, uploads that
were cut off before their row was written, replaced checkpoints, and parts of abandoned uploads. Finds orphans by
listing the object store, page by page."""

import logging
import re
from collections.abc import Sequence
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import InstrumentedAttribute

from core.service.db.models import Adapter, Dataset, DatasetUpload, Finetune, GenerationImage, GenerationPreview
from core.service.db.models.datasets import thumbnails_key
from core.service.db.session import Database
from core.service.storage import ObjectStore
from core.service.tenancy import SYSTEM

logger = logging.getLogger(__name__)

PAGE = 500
_DOMAIN = re.compile(r"tenants/[^/]+/domains/([^/]+)/")
_FINETUNE = re.compile(r"/finetunes/([^/]+)/")
_EXAMPLE = re.compile(r"/datasets/([^/]+)/classes/")
_SAMPLE = re.compile(r"/finetunes/([^/]+)/samples/")
_UPLOAD = re.compile(r"(.*/archive\.zip)\.parts/")
_GENERATION = re.compile(r"/generations/([^/]+)/")


def remove_page(database: Database, store: ObjectStore, after: str, older_than_seconds: float) -> str:
    """Lists the page of objects after the storage key `after`, and deletes the orphans among them that are older than
    `older_than_seconds`; a younger object may still get its database row. Returns the last key of the page, for the
    next call. At the end of the store, also deletes the parts of abandoned uploads, and returns "".

    Leaves alone objects whose keys are not of this service's form. Raises StorageUnavailable, DatabaseUnavailable.
    """
    page = store.page("tenants/", after, PAGE)
    old = [stored.key for stored in page if stored.age_seconds > older_than_seconds and _DOMAIN.match(stored.key)]
    orphans = sorted(set(old) - _spoken_of(database, old))
    if orphans:
        store.delete(orphans)
        logger.info("removed %d objects without a row, the first %s", len(orphans), orphans[0])
    if len(page) == PAGE:
        return page[-1].key
    with database.session(SYSTEM) as session:
        held = set(session.scalars(select(DatasetUpload.object_key).where(DatasetUpload.status == "open")))
    if dropped := store.drop_parts("tenants/", older_than_seconds, held):
        logger.info("removed the parts of %d uploads that were cut off", dropped)
    return ""


def _spoken_of(database: Database, keys: Sequence[str]) -> set[str]:
    """Returns the storage keys, out of `keys`, that must stay: database rows reference them, or their owner still
    exists. Looks the rows up by the ids of domains, fine-tunes and generations in the keys."""
    domains, finetunes, generations = (_ids(pattern, keys) for pattern in (_DOMAIN, _FINETUNE, _GENERATION))
    columns: list[tuple[InstrumentedAttribute[Any], InstrumentedAttribute[str], set[str]]] = [
        (Adapter.object_key, Adapter.domain_id, domains),
        (Dataset.archive_key, Dataset.domain_id, domains),
        (Finetune.checkpoint_key, Finetune.id, finetunes),
        (Finetune.previous_checkpoint_key, Finetune.id, finetunes),
        (GenerationImage.object_key, GenerationImage.generation_id, generations),
        (GenerationPreview.object_key, GenerationPreview.generation_id, generations),
    ]
    with database.session(SYSTEM) as session:  # must see every tenant's rows, or their objects would look orphaned
        referenced = {
            key for key, owner, ids in columns if ids for key in session.scalars(select(key).where(owner.in_(ids)))
        }
        sources = session.scalars(select(Dataset.sources).where(Dataset.domain_id.in_(domains)))
        referenced |= {zip["key"] for zips in sources for zip in zips}
        uploads = select(DatasetUpload.object_key).where(DatasetUpload.domain_id.in_(domains))
        coming = set(session.scalars(uploads.where(DatasetUpload.status == "open")))
        # Only events reference sample images, so all samples are kept as long as their fine-tune's row exists.
        alive = set(session.scalars(select(Finetune.id).where(Finetune.id.in_(_ids(_SAMPLE, keys)))))
        # No row references the example images of a data set: they are kept as long as the data set's row exists.
        alive |= set(session.scalars(select(Dataset.id).where(Dataset.id.in_(_ids(_EXAMPLE, keys)))))
    patterns = (_SAMPLE, _EXAMPLE)
    samples = {key for key in keys for each in patterns if (match := each.search(key)) and match.group(1) in alive}
    parts = {key for key in keys if (match := _UPLOAD.match(key)) and match.group(1) in coming}
    return referenced | samples | parts | coming | {thumbnails_key(key) for key in referenced}


def _ids(pattern: re.Pattern[str], keys: Sequence[str]) -> set[str]:
    return {match.group(1) for key in keys if (match := pattern.search(key))}
