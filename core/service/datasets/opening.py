"""Opening and inflating of zips that untrusted users upload, within limits."""

import zipfile
from itertools import pairwise
from typing import IO

from core.artifact.errors import CoreError
from core.service.datasets.images import SIGNATURE_BYTES, Refused, check_signature
from core.service.errors import ArchiveInvalid

_ENTRIES_A_MEMBER, _ENTRY_BYTES = 3, 256
"""Max entries of the zip's index per allowed file, and max bytes per entry. More entries than files are allowed, since
the index also lists folders and the files that operating systems add."""
_LOCAL_HEADER_BYTES = 30


def open_zip(file: IO[bytes], members: int) -> zipfile.ZipFile:
    """Opens a zip that may have at most `members` files. Raises ArchiveInvalid if it is no zip, if its index is too
    large, or if its entries overlap."""
    file.seek(0)
    guarded = _Guarded(file, members * _ENTRIES_A_MEMBER)
    try:
        archive = zipfile.ZipFile(guarded)
    except (zipfile.BadZipFile, ValueError, OverflowError, NotImplementedError, OSError) as error:
        detail = "The file is not a zip archive. Upload a .zip with one folder per class."
        raise ArchiveInvalid("not_a_zip", detail) from error
    guarded.is_index = False
    _check_overlaps(archive)
    return archive


def inflate(archive: zipfile.ZipFile, info: zipfile.ZipInfo, limit: int) -> tuple[bytes | None, int]:
    """Returns the inflated bytes of one file in the zip, or None if there are more than `limit`, and the number of
    bytes that were inflated. The size that the zip's index declares is not trusted. Raises Refused for a file that is
    not an image or is corrupt."""
    try:
        with archive.open(info) as member:
            check_signature(member.peek(SIGNATURE_BYTES))  # type: ignore[attr-defined]  # ZipExtFile has it
            data = member.read(limit + 1)
    except (Refused, CoreError):  # an error of the object store is not the file's fault
        raise
    except Exception as error:  # zipfile raises nearly everything on hostile input
        raise Refused("corrupt", "It cannot be read from the zip. Create the zip again.") from error
    if len(data) <= limit and len(data) != info.file_size:
        raise Refused("corrupt", "Its size differs from the zip's index. Create the zip again.")
    return (None if len(data) > limit else data), len(data)


def read_plain(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    """Returns the inflated bytes of a file in the zip that is no image: at most as many as the zip's index declares.
    Raises Refused for a file that is corrupt."""
    try:
        with archive.open(info) as member:
            return member.read(info.file_size)
    except CoreError:  # an error of the object store is not the file's fault
        raise
    except Exception as error:  # zipfile raises nearly everything on hostile input
        raise Refused("corrupt", "It cannot be read from the zip. Create the zip again.") from error


class _Guarded:
    """File wrapper that limits the size of the index that zipfile reads. zipfile reads the whole index and builds
    objects that take ten times its memory. The wrapper rejects a too large index before that, by its actual size and
    not by its declared size."""

    def __init__(self, file: IO[bytes], entries: int) -> None:
        self._file, self._entries = file, entries
        self.is_index = True
        self.seek, self.tell, self.seekable = file.seek, file.tell, file.seekable

    def read(self, size: int = -1) -> bytes:
        if not self.is_index:
            return self._file.read(size)
        if size > self._entries * _ENTRY_BYTES:
            self._refuse()
        data = self._file.read(size)
        if data.count(b"PK\x01\x02") > self._entries:
            self._refuse()
        return data

    def _refuse(self) -> None:
        raise ArchiveInvalid(
            "too_many_files", "The zip's index is too large: it has too many entries. Send fewer files."
        )


def _check_overlaps(archive: zipfile.ZipFile) -> None:
    """Raises ArchiveInvalid if entries of the zip share bytes. Overlapping entries let a small zip inflate to a huge
    size."""
    ordered = sorted(archive.infolist(), key=lambda info: info.header_offset)
    for info, following in pairwise(ordered):
        if info.header_offset + _LOCAL_HEADER_BYTES + info.compress_size > following.header_offset:
            raise ArchiveInvalid("overlapping_files", "The zip contains overlapping entries. Create it again.")
