"""What every store can do, and the digest of what it holds."""

import hashlib
import logging
from collections.abc import Container, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal, Protocol

from prometheus_client import Counter

from core.errors import ChecksumMismatch, ObjectNotFound, StorageFull, StorageRefused, StorageUnavailable
from core.scratch import writing_scratch

logger = logging.getLogger(__name__)

CHUNK = 2**20
ERRORS = Counter("difffit_storage_errors", "Calls that the store did not answer, or had no room for", ["code"])


@dataclass(frozen=True)
class StoredObject:
    key: str
    sha256: str
    size: int


@dataclass(frozen=True)
class ListedObject:
    key: str
    age_seconds: float
    """By the store's own clock: a host's may be wrong."""
    size: int


@dataclass(frozen=True)
class Part:
    """One of an object that comes in parts."""

    number: int
    """From 1."""
    size: int
    etag: str
    """Of this part's bytes; what the store answers when it is put."""


_KINDS = {"away": StorageUnavailable, "full": StorageFull, "refused": StorageRefused}


def unusable(reason: str, *, kind: Literal["away", "full", "refused"] = "away") -> StorageUnavailable:
    """Returns the error to raise, counted; what an operator must mend is logged as an error."""
    error = _KINDS[kind](reason)
    ERRORS.labels(error.code).inc()
    if kind == "refused":
        logger.error(error.detail)
    return error


def missing(key: str) -> ObjectNotFound:
    """Returns the error to raise. Its key is logged, and in no answer."""
    logger.info("there is no object %s", key)
    return ObjectNotFound()


class ObjectStore(Protocol):
    """Keys are paths with forward slashes. Every method raises StorageUnavailable when the store does not answer."""

    def put(self, key: str, data: bytes) -> StoredObject: ...

    def put_file(self, key: str, file: IO[bytes]) -> StoredObject:
        """Stores an open file from its beginning."""
        ...

    def get(self, key: str, sha256: str | None = None) -> bytes:
        """The object's bytes. Raises NotFound, or ChecksumMismatch when they are not those of `sha256`."""
        ...

    def download(self, key: str, path: Path, sha256: str | None = None) -> None:
        """The same into a file. Raises ScratchFull too."""
        ...

    def delete(self, keys: Sequence[str]) -> None:
        """Removes objects; one that is not there is no error."""
        ...

    def list(self, prefix: str) -> list[str]: ...

    def page(self, prefix: str, after: str, limit: int) -> Sequence[ListedObject]:
        """The first objects in the order of their keys, at most 1,000, behind the key `after`; also what a broken
        write left."""
        ...

    def open(self, key: str) -> IO[bytes]:
        """Opens an object for reading and seeking, without a copy of it; few requests when it is read in order. Raises
        NotFound; reading raises StorageUnavailable."""
        ...

    def begin_parts(self, key: str) -> str:
        """Begins an object that comes in parts; what the store calls this upload, beside the key."""
        ...

    def part_url(self, key: str, upload: str, number: int, size: int, seconds: int) -> str | None:
        """Where a client can put a part without us, for so long; None when there is no such place."""
        ...

    def put_part(self, key: str, upload: str, number: int, file: IO[bytes]) -> Part:
        """Stores a part, in the place of an earlier one with its number. Raises NotFound."""
        ...

    def parts(self, key: str, upload: str) -> Sequence[Part]:
        """Those that are there, by number. Raises NotFound when the store does not know the upload."""
        ...

    def join_parts(self, key: str, upload: str, parts: Sequence[Part]) -> None:
        """Makes the object of these parts, in their order. Raises NotFound."""
        ...

    def drop_upload(self, key: str, upload: str) -> None:
        """Removes the parts of one upload; one that is not there is no error."""
        ...

    def drop_parts(self, prefix: str, older_than_seconds: float, held: Container[str] = ()) -> int:
        """Removes the parts of uploads that nobody goes on with, but not of those whose key is held; how many uploads
        there were. Where parts are objects, which `page` shows, there are none."""
        ...

    def check(self) -> None:
        """Raises StorageUnavailable unless the store can be used."""
        ...


def file_digest(file: IO[bytes]) -> tuple[str, int]:
    """SHA-256 and size of an open file; leaves it at its beginning."""
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


def verify(key: str, found: str, expected: str | None) -> None:
    """Raises ChecksumMismatch."""
    if expected is not None and found != expected:
        logger.error("the object %s is not what was written: restore it from a backup", key)
        raise ChecksumMismatch
