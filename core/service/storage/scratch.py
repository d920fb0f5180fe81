"""Temporary files on this host's disk. Their errors are different from those of the object store."""

import errno
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from core.service.storage.errors import ScratchFull, ScratchTooSmall

FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""Error numbers (errno) that mean that a disk, a quota or a file cannot take more bytes."""


@contextmanager
def writing_scratch() -> Iterator[None]:
    """Wraps code that writes temporary files. Raises ScratchFull if the disk of temporary files is full."""
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            raise ScratchFull(tempfile.gettempdir()) from error
        raise


def check_scratch(setting: str, needed_bytes: int) -> None:
    """Raises ScratchTooSmall if the disk of temporary files is smaller than the `needed_bytes` that the setting named
    `setting` requires. Called when a process starts."""
    folder = tempfile.gettempdir()
    total = shutil.disk_usage(folder).total
    if total < needed_bytes:
        raise ScratchTooSmall(folder, total, setting, needed_bytes)
