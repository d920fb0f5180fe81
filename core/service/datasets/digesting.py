"""File wrapper that computes the file's SHA-256 while the file is read, so that a large object is fetched only once."""

import hashlib
import io
from typing import IO, Any

from core.service.storage.objects import CHUNK

GAP_BYTES = 2**23
"""Max bytes that a reader may skip for the skipped bytes to be read and hashed at once. Bytes that a longer jump skips,
such as the jump to a zip's index, are read and hashed at the end, by `digest`."""


class DigestingFile(io.RawIOBase):
    """Readable file that hashes the bytes of `file` in order, each when reading first reaches it."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._sha256, self._hashed = hashlib.sha256(), 0

    def digest(self) -> str:
        """Reads and hashes all bytes that are not hashed yet, and returns the whole file's SHA-256 in hex."""
        self._file.seek(self._hashed)
        while chunk := self._file.read(CHUNK):
            self._sha256.update(chunk)
            self._hashed += len(chunk)
        return self._sha256.hexdigest()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._file.tell()

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def readinto(self, buffer: Any) -> int:
        start = self._file.tell()
        if 0 < start - self._hashed <= GAP_BYTES:
            self._file.seek(self._hashed)
            self._take(self._file.read(start - self._hashed), self._hashed)
            self._file.seek(start)  # `start` may lie behind the end of the file
        data = self._file.read(len(buffer))
        buffer[: len(data)] = data
        self._take(data, start)
        return len(data)

    def _take(self, data: bytes, start: int) -> None:
        if start <= self._hashed < start + len(data):
            new = memoryview(data)[self._hashed - start :]
            self._sha256.update(new)
            self._hashed += len(new)
