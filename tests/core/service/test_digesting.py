"""The digest of a file, computed while it is read in any order."""

import hashlib
import io
import random
import zipfile
from typing import Any

import pytest

from core.service.datasets import archive, digesting
from core.service.datasets.digesting import DigestingFile
from tests.core.service.zips import LIMITS, picture


class Counted(io.BytesIO):
    """File that counts the bytes read."""

    count = 0

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size)
        self.count += len(data)
        return data


def zip_with_gaps(order: int = 1) -> bytes:
    """Returns a zip with unindexed bytes between its members, which are indexed in this order or in reverse."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as packed:
        for number in range(20):
            info = zipfile.ZipInfo(f"{'ab'[number % 2]}/{number:02}.png")
            info.extra = bytes([9, 9, 0, 2]) + bytes(512) if number % 3 == 0 else b""
            packed.writestr(info, picture(number, (64, 64)))
        packed.filelist = packed.filelist[::order]
    return buffer.getvalue()


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize("gap", [0, 700, 2**23])
def test_validation_computes_the_digest_of_every_byte(monkeypatch: pytest.MonkeyPatch, order: int, gap: int) -> None:
    monkeypatch.setattr(digesting, "GAP_BYTES", gap)
    data = zip_with_gaps(order)
    file: Any = DigestingFile(io.BytesIO(data))
    report = archive.validate(file, LIMITS)
    assert len(report.members) == 20
    assert file.digest() == file.digest() == hashlib.sha256(data).hexdigest()


def test_zip_in_order_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digesting, "GAP_BYTES", 700)  # less than the distance to the index
    data = zip_with_gaps()
    counted = Counted(data)
    file: Any = DigestingFile(counted)
    archive.validate(file, LIMITS)
    assert file.digest() == hashlib.sha256(data).hexdigest()
    index = len(data) - data.index(b"PK\x01\x02")
    assert counted.count < len(data) + 4 * index


@pytest.mark.parametrize("seed", range(20))
def test_random_reads_return_the_bytes_and_digest_of_the_file(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    chance = random.Random(seed)
    monkeypatch.setattr(digesting, "GAP_BYTES", chance.choice([0, 10, 1000]))
    data = chance.randbytes(chance.randrange(1, 3000))
    file: Any = DigestingFile(io.BytesIO(data))
    for _ in range(50):
        place, size = chance.randrange(len(data) + 10), chance.randrange(300)
        assert file.seek(place) == place
        assert file.read(size) == data[place : place + size]
        assert file.tell() == place + len(data[place : place + size])
    assert file.digest() == hashlib.sha256(data).hexdigest()
