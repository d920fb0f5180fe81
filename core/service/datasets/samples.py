"""Sample data: a data set of bundled drawings, for a tenant that has no images of its own at hand.

The API only creates the row. A worker, which has the drawings, stores their zip, and validates it like an uploaded one.
"""

import io
import zipfile
from pathlib import Path

from sqlalchemy.orm import Session

from core.service import domains, metering
from core.service.datasets import service
from core.service.db.base import new_id
from core.service.db.models import Dataset
from core.service.quotas import Quotas
from core.service.resources import Resources
from core.service.storage import ObjectStore, StoredObject

_NAME = "OpenMoji drawings, CC BY-SA 4.0"
_FILE = "/sample.zip"
"""End of the storage key of a zip that a worker stores."""


def create(session: Session, resources: Resources, domain_id: str) -> Dataset:
    """Creates a data set of the bundled drawings, whose validation is dispatched after the commit. Raises NotFound,
    QuotaExceeded, StorageQuotaExceeded."""
    domain = domains.get(session, domain_id)
    Quotas(session, resources.settings).admit_dataset(1)  # the size of the zip is not known here
    folder = service.folder(domain.tenant_id, domain.id, new_id("ds"))
    archive = StoredObject(folder.removesuffix("/") + _FILE, "", 0)
    return service.create(session, resources.dispatcher, domain.id, archive, _NAME)


def is_sample(archive_key: str) -> bool:
    """Returns whether a worker must store the zip with this storage key."""
    return archive_key.endswith(_FILE)


def store_zip(store: ObjectStore, key: str, drawings: Path) -> StoredObject:
    """Stores a zip of a folder of drawings, which has one folder per class. Raises StorageUnavailable."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for path in sorted(drawings.glob("*/*.png")):
            entry = zipfile.ZipInfo(path.relative_to(drawings).as_posix())  # the same time in every zip
            archive.writestr(entry, path.read_bytes())
    return store.put(key, packed.getvalue())


def record_size(session: Session, id: str, size_bytes: int) -> None:
    """Writes the size of the stored zip to the data set's row, and counts it as stored."""
    dataset = service.get(session, id)
    dataset.size_bytes = size_bytes
    metering.add_stored_bytes(session, dataset.domain_id, size_bytes)
