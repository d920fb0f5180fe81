"""Zip files of images, written while they are sent, with one image in memory at a time."""

import json
import zipfile
from collections.abc import AsyncIterator, Sequence
from typing import IO, Any, cast

from api.threads import STORE, run_in
from core.service.db.models import GenerationImage
from core.service.storage import ObjectStore

METADATA = "metadata.jsonl"
"""Last file of the zip: a line of JSON for each image, in the form of Hugging Face's image folders."""
_EPOCH = (1980, 1, 1, 0, 0, 0)
"""Time of all entries, the earliest that a zip can have, so that equal images give equal zips."""


class _Sink:
    """File that `zipfile` writes to and cannot seek in. It keeps the bytes until they are taken."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def write(self, data: bytes) -> int:
        self._parts.append(bytes(data))
        return len(data)

    def flush(self) -> None:
        """Does nothing: the bytes are taken instead."""

    def take(self) -> bytes:
        data = b"".join(self._parts)
        self._parts.clear()
        return data


async def zipped(store: ObjectStore, images: Sequence[GenerationImage]) -> AsyncIterator[bytes]:
    """Yields a zip of the images' PNG files, which are stored without further compression, and of their metadata, piece
    by piece. Raises NotFound, ChecksumMismatch, StorageUnavailable."""
    sink = _Sink()
    with zipfile.ZipFile(cast(IO[bytes], sink), "w") as packed:  # zipfile needs only write and flush
        for image in images:
            data = await run_in(STORE, store.get, image.object_key, image.sha256)
            packed.writestr(zipfile.ZipInfo(_name(image), _EPOCH), data)
            yield sink.take()
        lines = [json.dumps(_metadata(image), ensure_ascii=False) + "\n" for image in images]
        packed.writestr(zipfile.ZipInfo(METADATA, _EPOCH), "".join(lines))
    yield sink.take()


def _name(image: GenerationImage) -> str:
    return f"{image.generation_id}-{image.index}.png"


def _metadata(image: GenerationImage) -> dict[str, Any]:
    source = image.generation
    return {
        "file_name": _name(image),
        "id": image.id,
        "class_name": source.class_name,
        "seed": image.seed,
        "adapter_id": source.adapter_id,
        "favourite": image.favourite,
        "label": image.label,
        "created_at": source.created_at.isoformat(),
    }
