"""File objects that fetch the bytes of a stored object in ranges, so that a large object is read without downloading
all of it."""

import io
import os
from collections.abc import Callable
from typing import IO, Any

FIRST_BYTES, MOST_BYTES = 2**18, 2**23
"""Min and max bytes of one fetch. A fetch after a jump has the minimum size; sequential reading grows it up to the
maximum, which bounds the memory of an open file."""
_BUFFER_BYTES = 2**16


def ranged_file(fetch: Callable[[int, int], bytes], size: int, tail: bytes = b"") -> IO[bytes]:
    """Opens an object of `size` bytes for reading. `fetch(start, end)` returns the object's bytes from `start` up to
    `end`, exclusive; `tail` holds the object's last bytes, if the caller has them already."""
    return io.BufferedReader(_Ranged(fetch, size, tail), _BUFFER_BYTES)


class _Ranged(io.RawIOBase):
    """Raw file that caches the bytes of the latest fetch. In sequential reading, for example of a zip with many images,
    each fetch is twice as large as the previous one; after a jump, the size starts at the minimum again."""

    def __init__(self, fetch: Callable[[int, int], bytes], size: int, tail: bytes) -> None:
        self._fetch, self._size = fetch, size
        self._start, self._data = size - len(tail), tail
        self._position, self._ahead = 0, FIRST_BYTES

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        if start + offset < 0:
            raise ValueError("before the object's beginning")
        self._position = start + offset
        return self._position

    def readinto(self, buffer: Any) -> int:
        if self._position >= self._size or not len(buffer):
            return 0
        if not self._start <= self._position < self._start + len(self._data):
            self._load()
        offset = self._position - self._start
        count = min(len(buffer), len(self._data) - offset)
        buffer[:count] = memoryview(self._data)[offset : offset + count]
        self._position += count
        return count

    def _load(self) -> None:
        skipped = self._position - (self._start + len(self._data))
        in_order = 0 <= skipped <= self._ahead
        self._ahead = min(2 * self._ahead, MOST_BYTES) if in_order else FIRST_BYTES
        self._data = b""  # frees the old bytes before the fetch
        end = min(self._position + self._ahead, self._size)
        self._start, self._data = self._position, self._fetch(self._position, end)
