"""Zip files, written while they are sent, with one file in memory at a time."""

import json
import zipfile
from collections.abc import AsyncIterator, Generator, Iterator, Sequence
from contextlib import closing
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


def zip_response(description: str) -> dict[str, Any]:
    """Returns the OpenAPI document's description of a response with a zip."""
    schema = {"type": "string", "format": "binary"}
    return {"content": {"application/zip": {"schema": schema}}, "description": description}


async def zipped(files: AsyncIterator[tuple[str, bytes]]) -> AsyncIterator[bytes]:
    """Yields a zip of files, each a path and its bytes, piece by piece. They are stored without compression, since
    images are compressed already. Raises the errors of `files`."""
    sink = _Sink()
    with zipfile.ZipFile(cast(IO[bytes], sink), "w") as packed:  # zipfile needs only write and flush
        async for path, data in files:
            packed.writestr(zipfile.ZipInfo(path, _EPOCH), data)
            yield sink.take()
    yield sink.take()


async def image_files(store: ObjectStore, images: Sequence[GenerationImage]) -> AsyncIterator[tuple[str, bytes]]:
    """Yields the PNG files of images, and then the file with their metadata. Raises NotFound, ChecksumMismatch,
    StorageUnavailable."""
    for image in images:
        yield _name(image), await run_in(STORE, store.get, image.object_key, image.sha256)
    lines = [json.dumps(_metadata(image), ensure_ascii=False) + "\n" for image in images]
    yield METADATA, "".join(lines).encode()


async def in_threads(files: Generator[tuple[str, bytes]]) -> AsyncIterator[tuple[str, bytes]]:
    """Yields what a blocking generator yields, which runs in the threads that read from the object store."""
    with closing(files):
        while (file := await run_in(STORE, _next, files)) is not None:
            yield file


def _next(files: Iterator[tuple[str, bytes]]) -> tuple[str, bytes] | None:
    return next(files, None)


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
