"""Disk space for temporary files."""

from pathlib import Path

import pytest

from core.service.storage.errors import ScratchFull, ScratchTooSmall
from core.service.storage.scratch import check_scratch, writing_scratch


def test_full_disk_is_reported_as_scratch_full() -> None:
    with pytest.raises(ScratchFull, match="full") as told, writing_scratch(), Path("/dev/full").open("wb") as file:
        file.write(b"content")
    assert (told.value.code, told.value.status) == ("scratch_full", 503)


def test_other_errors_of_a_file_are_unchanged() -> None:
    with pytest.raises(IsADirectoryError), writing_scratch(), Path("/").open("wb"):
        pass


def test_disk_smaller_than_the_largest_upload_is_rejected_at_startup() -> None:
    check_scratch("DIFFFIT_MAX_UPLOAD_BYTES", 1)
    with pytest.raises(ScratchTooSmall, match="Set TMPDIR to a larger disk, or change the setting"):
        check_scratch("DIFFFIT_MAX_UPLOAD_BYTES", 2**60)
