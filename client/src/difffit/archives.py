"""Packs folders into temporary zips for upload. Reads files in chunks, so that no file is in memory as a whole."""

import hashlib
import os
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from difffit.errors import InvalidInput

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif"}
OnProgress = Callable[[int, int], None]
"""Callback, called with the number of bytes sent so far and the total. The first number decreases when lost bytes are
sent again."""
LARGE_BYTES = 64 * 2**20
"""Size in bytes above which a zip is sent in parts, so that a lost connection costs only one part."""
_LONG_AGO = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True)
class Archive:
    file: IO[bytes]
    name: str
    size: int
    """Size in bytes."""


class Counted:
    """File wrapper for uploads that calls `on_progress` after each read."""

    def __init__(self, file: IO[bytes], size: int, on_progress: OnProgress) -> None:
        self._file, self._size, self._on_progress = file, size, on_progress

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size)
        self._on_progress(self._file.tell(), self._size)
        return data

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def fileno(self) -> int:
        return self._file.fileno()


@contextmanager
def open_archive(source: Path) -> Iterator[Archive]:
    """Opens a zip, or packs a folder into a temporary zip. Raises InvalidInput, FileNotFoundError."""
    if source.is_dir():
        with tempfile.TemporaryFile(prefix="difffit-", suffix=".zip") as file:
            pack(source, file)
            yield Archive(file, f"{source.resolve().name}.zip", file.tell())
    else:
        with source.open("rb") as file:
            yield Archive(file, source.name, os.fstat(file.fileno()).st_size)


def pack(folder: Path, file: IO[bytes]) -> None:
    """Writes all images of a folder to a zip, under their relative paths. The same images and names give the same
    bytes, because an interrupted upload is resumed by the zip's SHA-256. Raises InvalidInput."""
    images = sorted(path for path in folder.rglob("*") if _is_image(path.relative_to(folder)) and path.is_file())
    if not images:
        raise InvalidInput(f"There are no images in {folder}. It must contain one folder of images for each class.")
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:  # images are compressed already
        for path in images:
            info = zipfile.ZipInfo(path.relative_to(folder).as_posix(), _LONG_AGO)
            info.file_size = path.stat().st_size
            with path.open("rb") as source, archive.open(info, "w") as target:
                while piece := source.read(2**20):
                    target.write(piece)


def left_out(source: Path) -> list[Path]:
    """Returns the relative paths of a folder's files that `pack` skips, without hidden files. Returns an empty list for
    a zip."""
    paths = (path.relative_to(source) for path in source.rglob("*") if path.is_file()) if source.is_dir() else ()
    return sorted(path for path in paths if not _is_image(path) and not any(part[0] == "." for part in path.parts))


def left_out_note(source: Path) -> str | None:
    """Returns a sentence for the user about the files that `pack` skips, or None if it skips none."""
    files = left_out(source)
    if not files:
        return None
    named = f"{files[0]} is" if len(files) == 1 else f"{files[0]} and {len(files) - 1} more files are"
    return f"{named} not used. Only images are read, and the names of their folders become the classes."


def digest(file: IO[bytes]) -> str:
    """Returns the SHA-256 of an open file's bytes, in hexadecimal."""
    hasher = hashlib.sha256()
    file.seek(0)
    while piece := file.read(2**20):
        hasher.update(piece)
    return hasher.hexdigest()


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and not any(part.startswith(".") for part in path.parts)
