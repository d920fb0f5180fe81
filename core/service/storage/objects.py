"""Interface of object stores, and the digest of stored objects."""

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
    """Age by the store's own clock: a host's clock may be wrong."""
    size: int


@dataclass(frozen=True)
class Part:
    """Part of an object that comes in parts."""

    number: int
    """Number of the part, from 1."""
    size: int
    etag: str
    """ETag of this part's bytes, returned by the store when the part is put."""


_KINDS = {"away": StorageUnavailable, "full": StorageFull, "refused": StorageRefused}


def unusable(reason: str, *, kind: Literal["away", "full", "refused"] = "away") -> StorageUnavailable:
    """Counts the error and returns it. Problems that an operator must fix are logged as errors."""
    error = _KINDS[kind](reason)
    ERRORS.labels(error.code).inc()
    if kind == "refused":
        logger.error(error.detail)
    return error


def missing(key: str) -> ObjectNotFound:
    """Returns the error to raise. The key is logged, but never sent in a response."""
    logger.info("there is no object %s", key)
    return ObjectNotFound()


class ObjectStore(Protocol):
    """Keys are paths with forward slashes. Every method raises StorageUnavailable when the store does not respond."""

    def put(self, key: str, data: bytes) -> StoredObject: ...

    def put_file(self, key: str, file: IO[bytes]) -> StoredObject:
        """Stores an open file from its beginning."""
        ...

    def get(self, key: str, sha256: str | None = None) -> bytes:
        """Returns the object's bytes. Raises NotFound, or ChecksumMismatch when they do not match `sha256`."""
        ...

    def download(self, key: str, path: Path, sha256: str | None = None) -> None:
        """Writes the object's bytes into a file. Raises as `get`, and ScratchFull."""
        ...

    def delete(self, keys: Sequence[str]) -> None:
        """Deletes objects. Missing objects are not an error."""
        ...

    def list(self, prefix: str) -> list[str]: ...

    def page(self, prefix: str, after: str, limit: int) -> Sequence[ListedObject]:
        """Returns the first objects after the key `after`, in the order of their keys, at most 1,000. Includes what a
        broken write left."""
        ...

    def open(self, key: str) -> IO[bytes]:
        """Opens an object for reading and seeking, without a copy of it; few requests when it is read in order. Raises
        NotFound; reading raises StorageUnavailable."""
        ...

    def begin_parts(self, key: str) -> str:
        """Starts a multipart upload. Returns the store's id of the upload, to be used with the key."""
        ...

    def part_url(self, key: str, upload: str, number: int, size: int, seconds: int) -> str | None:
        """Returns a URL where a client can put a part directly, valid for `seconds`; None when the store has none."""
        ...

    def put_part(self, key: str, upload: str, number: int, file: IO[bytes]) -> Part:
        """Stores a part, and replaces an earlier one with its number. Raises NotFound."""
        ...

    def parts(self, key: str, upload: str) -> Sequence[Part]:
        """Returns the stored parts, by number. Raises NotFound when the store does not know the upload."""
        ...

    def join_parts(self, key: str, upload: str, parts: Sequence[Part]) -> None:
        """Joins the parts to an object, in their order. Raises NotFound."""
        ...

    def drop_upload(self, key: str, upload: str) -> None:
        """Deletes the parts of one upload. A missing upload is not an error."""
        ...

    def drop_parts(self, prefix: str, older_than_seconds: float, held: Container[str] = ()) -> int:
        """Removes the parts of abandoned uploads, except those whose key is in `held`. Returns how many uploads there
        were. Where parts are objects, which `page` lists, there are none."""
        ...

    def check(self) -> None:
        """Raises StorageUnavailable unless the store can be used."""
        ...


def file_digest(file: IO[bytes]) -> tuple[str, int]:
    """Returns SHA-256 and size of an open file; leaves it at its beginning."""
    file.seek(0)
    digest, size = hashlib.sha256(), 0
    while chunk := file.read(CHUNK):
        digest.update(chunk)
        size += len(chunk)
    file.seek(0)
    return digest.hexdigest(), size


def copy_out(key: str, source: IO[bytes], path: Path, sha256: str | None) -> None:
    """Writes an open object into a file. Raises ChecksumMismatch, ScratchFull."""
    digest = hashlib.sha256()
    with source, writing_scratch(), path.open("wb") as target:
        while chunk := source.read(CHUNK):
            digest.update(chunk)
            target.write(chunk)
    verify(key, digest.hexdigest(), sha256)


def verify(key: str, actual: str, expected: str | None) -> None:
    """Raises ChecksumMismatch when the digests differ."""
    if expected is not None and actual != expected:
        logger.error("the object %s is not what was written: restore it from a backup", key)
        raise ChecksumMismatch
