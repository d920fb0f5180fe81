"""Packs folders into temporary zips for upload. Reads files in chunks, so that no file is in memory as a whole."""

import hashlib
import io
import os
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from difffit.errors import InvalidInput

SUFFIXES = {
    *(".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp", ".tif", ".tiff", ".gif"),
    *(".avif", ".heic", ".heif"),
}
LABELS = {"labels.csv", "metadata.csv", "metadata.jsonl"}
"""Names of files from which the server reads the classes of images, instead of from folders."""
_CAPTIONS = {".txt", ".caption"}
OnProgress = Callable[[int, int], None]
"""Callback, called with the number of bytes sent so far and the total. The first number decreases when lost bytes are
sent again."""
Source = str | Path | bytes | IO[bytes]
"""Training images: the path of a zip or of a folder, the bytes of a zip, or a binary file with a zip."""
LARGE_BYTES = 64 * 2**20
"""Size in bytes above which a zip is sent in parts, so that a lost connection costs only one part."""
_SHOWN = 20
"""Maximum number of skipped files that are named."""
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
def open_archive(source: Source) -> Iterator[Archive]:
    """Opens a zip, or packs a folder into a temporary zip. A binary file that is open already, or bytes, must contain a
    zip. Raises InvalidInput, FileNotFoundError."""
    if isinstance(source, bytes):
        source = io.BytesIO(source)
    if not isinstance(source, (str, Path)):
        yield Archive(source, "images.zip", source.seek(0, os.SEEK_END))
        return
    source = Path(source)
    if source.is_dir():
        with tempfile.TemporaryFile(prefix="difffit-", suffix=".zip") as file:
            pack(source, file)
            yield Archive(file, f"{source.resolve().name}.zip", file.tell())
    else:
        with source.open("rb") as file:
            yield Archive(file, source.name, os.fstat(file.fileno()).st_size)


def pack(folder: Path, file: IO[bytes]) -> None:
    """Writes all images of a folder, and the files with their labels, to a zip, under their relative paths. The same
    files give the same bytes, because an interrupted upload is resumed by the zip's SHA-256. Raises InvalidInput."""
    files = sorted(path for path in _files(folder) if _is_sent(path.relative_to(folder)))
    images = [path for path in files if path.name.lower() not in LABELS]
    if not images:
        others = left_out(folder)
        unread = f" Files such as {others[0]} cannot be read: convert them to JPEG or PNG." if others else ""
        raise InvalidInput(
            f"There are no images in {folder}. It must contain one folder of images for each class.{unread}"
        )
    if len(files) == len(images) and all(path.parent == folder for path in images):
        raise InvalidInput(
            f"{folder} contains images itself, so they have no class. Move them into a folder in it that is named "
            "after their class, pass the folder above it, or add a labels.csv with the columns file_name and "
            "class_name."
        )
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:  # images are compressed already
        for path in files:
            info = zipfile.ZipInfo(path.relative_to(folder).as_posix(), _LONG_AGO)
            info.file_size = path.stat().st_size
            with path.open("rb") as source, archive.open(info, "w") as target:
                while piece := source.read(2**20):
                    target.write(piece)


def left_out(source: Path) -> list[Path]:
    """Returns the relative paths of a folder's files that `pack` skips, without hidden files. Returns an empty list for
    a zip."""
    paths = (path.relative_to(source) for path in _files(source)) if source.is_dir() else ()
    return sorted(path for path in paths if not _is_sent(path) and not any(part[0] == "." for part in path.parts))


def _files(folder: Path) -> Iterator[Path]:
    """Yields all files in a folder and its subfolders. Follows links to folders, but enters no folder twice."""
    entered: set[Path] = set()
    for place, folders, names in os.walk(folder, followlinks=True):
        here = Path(place)
        if here.resolve() in entered:
            folders.clear()
            continue
        entered.add(here.resolve())
        yield from (here / name for name in names if (here / name).is_file())


def left_out_note(source: Path) -> str | None:
    """Returns a sentence for the user about the files that `pack` skips, or None if it skips none."""
    files = left_out(source)
    if not files:
        return None
    shown = "".join(f"\n  {path}" for path in files[:_SHOWN])
    more = f"\n  and {len(files) - _SHOWN} more" if len(files) > _SHOWN else ""
    kinds = ", ".join(sorted(suffix[1:] for suffix in SUFFIXES))
    captions = sum(_is_caption(source / file) for file in files)
    note = f"\n{captions} of them are captions of images: training uses only the classes." if captions else ""
    return f"Not used, because only images ({kinds}) and {', '.join(sorted(LABELS))} are sent:{shown}{more}{note}"


def _is_caption(path: Path) -> bool:
    """Returns whether a text file lies next to an image of the same name."""
    return path.suffix.lower() in _CAPTIONS and any(path.with_suffix(suffix).is_file() for suffix in SUFFIXES)


def digest(file: IO[bytes]) -> str:
    """Returns the SHA-256 of an open file's bytes, in hexadecimal."""
    hasher = hashlib.sha256()
    file.seek(0)
    while piece := file.read(2**20):
        hasher.update(piece)
    return hasher.hexdigest()


def _is_sent(path: Path) -> bool:
    """Returns whether a file is sent, by its path relative to the folder: it is an image or has labels, and is not
    hidden."""
    is_used = path.suffix.lower() in SUFFIXES or path.name.lower() in LABELS
    return is_used and not any(part.startswith(".") for part in path.parts)


def save_file(data: bytes, path: Path, name: str) -> Path:
    """Writes a downloaded file and returns its path, as `place` chooses it."""
    target = place(path, name)
    target.write_bytes(data)
    return target


def place(path: Path, name: str) -> Path:
    """Returns the path of a downloaded file: `path`, or the file `name` in the folder `path`."""
    return path / name if path.is_dir() else path
