"""Reading of a data set's images from its stored zips, without downloading the zips as a whole."""

import heapq
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from operator import itemgetter
from typing import IO, TYPE_CHECKING, Any

from core.service.datasets.archive import Limits, read_files, read_images
from core.service.storage import ObjectStore, file_digest, verify

if TYPE_CHECKING:
    from PIL import Image

Zips = Sequence[dict[str, Any]]
Members = Sequence[dict[str, Any]]


def read_stored(
    store: ObjectStore, zips: Zips, members: Members, limits: Limits
) -> Iterator[tuple[int, "Image.Image"]]:
    """Yields (class id, image) for images of a data set (`members`), ordered by class id, then zip, then path in the
    zip.

    Checks the SHA-256 of each image. Data sets of earlier releases have only a SHA-256 of the zip, which is checked
    instead. Raises ArchiveInvalid, NotFound, ChecksumMismatch, StorageUnavailable.
    """
    with ExitStack() as opened:
        readers = []
        for index, zip in enumerate(zips):
            file = opened.enter_context(store.open(zip["key"]))
            readers.append(read_images(file, _inside(file, zip, index, members), limits))
        yield from heapq.merge(*readers, key=itemgetter(0))


def stored_files(
    store: ObjectStore, zips: Zips, members: Members, limits: Limits
) -> Iterator[tuple[dict[str, Any], bytes]]:
    """Yields (member, bytes) for images of a data set, ordered by zip, then class id, then path in the zip. Checks and
    raises what `read_stored` does."""
    for index, zip in enumerate(zips):
        with store.open(zip["key"]) as file:
            yield from read_files(file, _inside(file, zip, index, members), limits)


def _inside(file: IO[bytes], zip: dict[str, Any], index: int, members: Members) -> list[dict[str, Any]]:
    """Returns the members whose images are in a zip. Checks the zip's SHA-256 if any of them has none of its own.
    Raises ChecksumMismatch."""
    inside = [member for member in members if member.get("zip", 0) == index]
    if not all(member.get("sha256") for member in inside):
        verify(zip["key"], file_digest(file)[0], zip["sha256"])
    return inside
