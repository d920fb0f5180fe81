"""Reading of a data set's images from its stored zips, without downloading the zips as a whole."""

import heapq
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from core.service.datasets.archive import Limits, read_images
from core.service.storage import ObjectStore, file_digest, verify

if TYPE_CHECKING:
    from PIL import Image


def read_stored(
    store: ObjectStore, zips: Sequence[dict[str, Any]], members: Sequence[dict[str, Any]], limits: Limits
) -> Iterator[tuple[int, "Image.Image"]]:
    """Yields (class id, image) for images of a data set (`members`), ordered by class id, then zip, then path in the
    zip.

    Checks the SHA-256 of each image. Data sets of earlier releases have only a SHA-256 of the zip, which is checked
    instead. Raises ArchiveInvalid, NotFound, ChecksumMismatch, StorageUnavailable.
    """
    with ExitStack() as opened:
        readers = []
        for index, zip in enumerate(zips):
            inside = [member for member in members if member.get("zip", 0) == index]
            file = opened.enter_context(store.open(zip["key"]))
            if not all(member.get("sha256") for member in inside):
                verify(zip["key"], file_digest(file)[0], zip["sha256"])
            readers.append(read_images(file, inside, limits))
        yield from heapq.merge(*readers, key=itemgetter(0))
