"""Temporary files on our own disk. Its errors are different from those of the object store."""

import errno
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from core.service.storage.errors import ScratchFull, ScratchTooSmall

FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""Errors of a file system or a file that takes no more bytes."""


@contextmanager
def writing_scratch() -> Iterator[None]:
    """Wraps writes of temporary files. Raises ScratchFull when their disk is full."""
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            raise ScratchFull(tempfile.gettempdir()) from error
        raise


def check_scratch(setting: str, needed_bytes: int) -> None:
    """Checks at the start that the folder for temporary files can hold what `setting` needs. Raises
    ScratchTooSmall."""
    folder = tempfile.gettempdir()
    total = shutil.disk_usage(folder).total
    if total < needed_bytes:
        raise ScratchTooSmall(folder, total, setting, needed_bytes)
