"""Download of a data set: its accepted images in one folder per class, as they were uploaded."""

import logging
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from sqlalchemy.orm import Session

from core.artifact.errors import ChecksumMismatch
from core.service import audit
from core.service.datasets.archive import Limits
from core.service.datasets.reading import stored_files
from core.service.datasets.service import get
from core.service.errors import ArchiveInvalid, DatasetNotReady
from core.service.storage import ObjectStore

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Contents:
    """Images of a data set, as plain values, so that no database session is open while they are sent."""

    class_names: list[str]
    members: list[dict[str, Any]]
    zips: list[dict[str, Any]]


def contents(session: Session, id: str) -> Contents:
    """Returns the contents of a data set that the caller is about to send, and records the download in the audit log.
    Raises NotFound, DatasetNotReady."""
    dataset = get(session, id)
    if dataset.status != "ready":
        raise DatasetNotReady(id, dataset.status)
    audit.record(session, "dataset.download", id)
    return Contents([label["name"] for label in dataset.classes], dataset.members, dataset.zips)


def files(store: ObjectStore, wanted: Contents, limits: Limits) -> Generator[tuple[str, bytes]]:
    """Yields (path, bytes) for each image, with one image in memory at a time. The path is the class's folder and the
    file's own name, with a number if another image of the class has this name.

    Raises NotFound, StorageUnavailable, and ChecksumMismatch if a file is missing from a stored zip or has changed.
    """
    taken: dict[str, int] = {}
    try:
        for member, data in stored_files(store, wanted.zips, wanted.members, limits):
            yield _free_path(member["file"], wanted.class_names[member["class_id"]], taken), data
    except ArchiveInvalid as error:
        logger.exception("a stored zip is damaged")
        raise ChecksumMismatch from error


def _free_path(file: str, folder: str, taken: dict[str, int]) -> str:
    """Returns a path in a folder for a file of a stored zip, and adds it to `taken`, which has the last number that was
    tried for each path. Paths differ in more than case, which some file systems ignore."""
    own = PurePosixPath(file.replace("\\", "/"))  # earlier releases stored Windows' separators
    path = first = f"{folder}/{own.name}"
    while path.casefold() in taken:
        number = taken[first.casefold()] = taken[first.casefold()] + 1
        path = f"{folder}/{own.stem}-{number}{own.suffix}"
    taken[path.casefold()] = 1
    return path
