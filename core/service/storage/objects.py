"""Interface of object stores, and functions that compute and check the SHA-256 of objects."""

import hashlib
import logging
from collections.abc import Container, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal, Protocol

from prometheus_client import Counter

from core.artifact.errors import ChecksumMismatch
from core.service.storage.errors import ObjectNotFound, StorageFull, StorageRefused, StorageUnavailable
from core.service.storage.scratch import writing_scratch

logger = logging.getLogger(__name__)

CHUNK = 2**20
ERRORS = Counter("difffit_storage_errors", "Failed calls of the object store", ["code"])


@dataclass(frozen=True)
class StoredObject:
    key: str
    sha256: str
    size: int


@dataclass(frozen=True)
class ListedObject:
    key: str
    age_seconds: float
    """Age of the object in seconds, by the store's own clock, since this host's clock may be wrong."""
    size: int


@dataclass(frozen=True)
class Part:
    """Stored part of a multipart upload."""

    number: int
    """Number of the part, from 1."""
    size: int
    etag: str
    """ETag of this part's bytes, which the store returns when the part is uploaded."""


_KINDS = {"away": StorageUnavailable, "full": StorageFull, "refused": StorageRefused}


def unusable(reason: str, *, kind: Literal["away", "full", "refused"] = "away") -> StorageUnavailable:
    """Returns StorageUnavailable, or its subclass for `kind`, for the caller to raise, and counts the error in the
    metrics. Errors that an operator must fix (`refused`) are logged."""
    error = _KINDS[kind](reason)
    ERRORS.labels(error.code).inc()
    if kind == "refused":
        logger.error(error.detail)
    return error


def missing(key: str) -> ObjectNotFound:
    """Returns the error for a missing object, for the caller to raise. The storage key is logged, but never sent in a
    response."""
    logger.info("there is no object %s", key)
    return ObjectNotFound()


class ObjectStore(Protocol):
    """Interface of object stores. Storage keys are paths with forward slashes. Every method raises StorageUnavailable
    if the store does not respond."""

    def put(self, key: str, data: bytes) -> StoredObject: ...

    def put_file(self, key: str, file: IO[bytes]) -> StoredObject:
        """Stores the whole content of an open file, whatever its current position."""
        ...

    def get(self, key: str, sha256: str | None = None) -> bytes:
        """Returns the object's bytes. Raises NotFound, or ChecksumMismatch when they do not match `sha256`."""
        ...

    def download(self, key: str, path: Path, sha256: str | None = None) -> None:
        """Writes the object's bytes to the file `path`. Raises NotFound, ScratchFull, or ChecksumMismatch when the
        bytes do not match `sha256`."""
        ...

    def delete(self, keys: Sequence[str]) -> None:
        """Deletes objects. Missing objects are not an error."""
        ...

    def list(self, prefix: str) -> list[str]: ...

    def page(self, prefix: str, after: str, limit: int) -> Sequence[ListedObject]:
        """Returns the first objects whose keys start with `prefix` and sort after the key `after`, in the order of
        their keys: at most `limit`, which is at most 1,000. Includes files left by interrupted writes."""
        ...

    def open(self, key: str) -> IO[bytes]:
        """Opens an object for reading and seeking, without downloading all of it. Reading in order takes few requests.
        Raises NotFound; reading raises StorageUnavailable."""
        ...

    def begin_parts(self, key: str) -> str:
        """Starts a multipart upload. Returns the store's id of the upload, which the methods below take as `upload`,
        together with the storage key."""
        ...

    def part_url(self, key: str, upload: str, number: int, size: int, seconds: int) -> str | None:
        """Returns a URL to which a client can upload one part directly, valid for `seconds`; None if clients cannot
        reach the store."""
        ...

    def put_part(self, key: str, upload: str, number: int, file: IO[bytes]) -> Part:
        """Stores a part of an upload, and replaces an earlier part with the same number. Raises NotFound if the store
        does not know the upload."""
        ...

    def parts(self, key: str, upload: str) -> Sequence[Part]:
        """Returns the stored parts of an upload, ordered by number. Raises NotFound if the store does not know the
        upload."""
        ...

    def join_parts(self, key: str, upload: str, parts: Sequence[Part]) -> None:
        """Joins the parts of an upload to an object, in the given order. Raises NotFound if the store does not know the
        upload."""
        ...

    def drop_upload(self, key: str, upload: str) -> None:
        """Deletes the parts of one upload. A missing upload is not an error."""
        ...

    def drop_parts(self, prefix: str, older_than_seconds: float, held: Container[str] = ()) -> int:
        """Deletes the parts of uploads that began more than `older_than_seconds` ago, except uploads of the storage
        keys in `held`. Returns the number of these uploads; always 0 for a store whose parts are ordinary objects,
        which `page` lists."""
        ...

    def check(self) -> None:
        """Raises StorageUnavailable unless the store can be used."""
        ...


def file_digest(file: IO[bytes]) -> tuple[str, int]:
    """Returns the SHA-256 in hex and the size in bytes of an open file, and rewinds the file to its beginning."""
    file.seek(0)
    digest, size = hashlib.sha256(), 0
    while chunk := file.read(CHUNK):
        digest.update(chunk)
        size += len(chunk)
    file.seek(0)
    return digest.hexdigest(), size


def copy_out(key: str, source: IO[bytes], path: Path, sha256: str | None) -> None:
    """Copies the open object `source` to the file `path`. Raises ScratchFull, or ChecksumMismatch when the bytes do not
    match `sha256`."""
    digest = hashlib.sha256()
    with source, writing_scratch(), path.open("wb") as target:
        while chunk := source.read(CHUNK):
            digest.update(chunk)
            target.write(chunk)
    verify(key, digest.hexdigest(), sha256)


def verify(key: str, actual: str, expected: str | None) -> None:
    """Raises ChecksumMismatch, and logs the storage key, if an object's actual SHA-256 differs from the expected
    one."""
    if expected is not None and actual != expected:
        logger.error("the object %s is not what was written: restore it from a backup", key)
        raise ChecksumMismatch
