"""Hostile zips and values, and photos from phones."""

import io
import tracemalloc
import zipfile
from dataclasses import replace

import pytest
from PIL import Image
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from core.artifact.errors import Cancelled
from core.service import audit, tenants
from core.service.audit import AuditFilter
from core.service.datasets.archive import inspect, read_images, validate
from core.service.db.paging import PageRequest
from core.service.db.session import Database
from core.service.errors import ArchiveInvalid, DatabaseUnavailable, InvalidCursor
from core.service.storage import S3Store
from core.service.storage.errors import StorageUnavailable
from tests.core.service.zips import GOOD, LIMITS, picture, zipped


@pytest.mark.parametrize("compression", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_unbounded_compression_is_not_inflated(compression: int) -> None:
    """A few hundred bytes of bzip2 inflate to 64 MB in one step."""
    buffer = zipped(GOOD)
    with zipfile.ZipFile(buffer, "a") as archive:
        archive.writestr("cat/bomb.png", bytes(2**26), compression)
    tracemalloc.start()
    report = validate(buffer, LIMITS)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert {rejected.file: rejected.code for rejected in report.rejected} == {"cat/bomb.png": "compression"}
    assert peak < 2**24


def test_rejected_files_count_towards_the_inflated_size() -> None:
    bombs = {f"cat/{i}.png": b"\x89PNG" + bytes(LIMITS.image_bytes) for i in range(20)}
    with pytest.raises(ArchiveInvalid) as caught:
        validate(zipped(GOOD | bombs), LIMITS)
    assert caught.value.code == "inflates_too_large"


def test_large_index_is_rejected_before_it_uses_memory() -> None:
    entry = zipped({"cat/1.png": b""}).getvalue()
    index = entry[entry.index(b"PK\1\2") : entry.index(b"PK\5\6")] * 50_000
    end = b"PK\5\6" + bytes(8) + len(index).to_bytes(4, "little") + bytes(6)
    tracemalloc.start()
    with pytest.raises(ArchiveInvalid) as caught:
        inspect(io.BytesIO(index + end), LIMITS)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert caught.value.code == "too_many_files"
    assert peak < len(index) + 2**23, "only the file itself, and none of its entries"


def test_overlapping_files_are_rejected() -> None:
    data = zipped(GOOD).getvalue()
    second = data.rindex(b"PK\1\2")
    overlapping = data[: second + 42] + bytes(4) + data[second + 46 :]
    with pytest.raises(ArchiveInvalid) as caught:
        inspect(io.BytesIO(overlapping), LIMITS)
    assert caught.value.code == "overlapping_files"


def test_file_that_inflates_too_much_is_rejected() -> None:
    limits = replace(LIMITS, image_bytes=2**26, inflated_bytes=2**40)
    bombs = {f"cat/{number}.png": b"\x89PNG" + bytes(2**26 - 4 - number) for number in range(5)}
    with pytest.raises(ArchiveInvalid) as caught:
        validate(zipped(GOOD | bombs), limits)
    assert caught.value.code == "inflates_too_large"
    assert f"{2**28:,}" in caught.value.detail


def test_zip_with_a_too_large_declared_size_is_rejected() -> None:
    with pytest.raises(ArchiveInvalid) as caught:
        inspect(zipped(GOOD | {"cat/9.png": bytes(LIMITS.inflated_bytes)}), LIMITS)
    assert caught.value.code == "inflates_too_large"


def test_large_photos_are_accepted_if_decoded_smaller() -> None:
    limits = replace(LIMITS, image_bytes=2**25, inflated_bytes=2**27, pixels=50_000_000)
    large, flat, passes = io.BytesIO(), io.BytesIO(), io.BytesIO()
    image = Image.new("L", (6000, 5000))
    image.convert("RGB").save(large, "JPEG")
    image.convert("RGB").save(flat, "PNG")
    image.convert("RGB").save(passes, "JPEG", progressive=True)
    files = {"cat/1.jpg": large.getvalue(), "cat/2.png": flat.getvalue(), "cat/3.jpg": passes.getvalue()}
    archive = zipped(GOOD | files)
    report = validate(archive, limits)
    assert {rejected.file: rejected.code for rejected in report.rejected} == {"cat/3.jpg": "too_many_pixels"}
    members = [member.to_json() for member in report.members if member.file in ("cat/1.jpg", "cat/2.png")]
    assert [photo.size for _, photo in read_images(archive, members, limits)] == [(1250, 1250), (1250, 1250)]


def test_cancelled_validation_decodes_nothing_more() -> None:
    with pytest.raises(Cancelled):
        validate(zipped(GOOD), LIMITS, lambda: False)


def test_readme_next_to_the_classes_is_ignored() -> None:
    files = {f"set/{name}": data for name, data in GOOD.items()} | {"set/README.txt": b"hello"}
    inspect(zipped(files), LIMITS)
    report = validate(zipped(files), LIMITS)
    assert report.class_names == ["cat", "dog"]
    assert (report.rejected, report.ignored) == ([], 1)


def test_single_class_that_contains_a_folder_is_no_wrapper() -> None:
    files = {"cat/1.png": picture(1), "cat/2.png": picture(2), "cat/more/3.png": picture(3)}
    assert validate(zipped(files), LIMITS).class_names == ["cat"]


def test_first_picture_of_a_photo_is_used() -> None:
    double = io.BytesIO()
    Image.new("RGB", (16, 8)).save(double, "MPO", save_all=True, append_images=[Image.new("RGB", (16, 8), "red")])
    archive = zipped(GOOD | {"cat/9.jpg": double.getvalue()})
    report = validate(archive, LIMITS)
    assert report.rejected == []
    (member,) = (member.to_json() for member in report.members if member.file == "cat/9.jpg")
    ((_, image),) = read_images(archive, [member], LIMITS)
    assert image.getextrema() == ((0, 0), (0, 0), (0, 0))


@pytest.mark.parametrize("value", ["\0", "9" * 40, "9" * 5000, "-1"])
def test_out_of_range_cursors_are_rejected(database: Database, value: str) -> None:
    with pytest.raises(InvalidCursor), database.session() as session:
        audit.page(session, AuditFilter(), PageRequest(cursor=value))
    if value == "\0":
        with pytest.raises(InvalidCursor), database.session() as session:
            tenants.page(session, PageRequest(cursor=value))


def test_exhausted_connection_pool_is_database_unavailable(database: Database) -> None:
    with pytest.raises(DatabaseUnavailable), database.session():
        raise PoolTimeoutError("QueuePool limit reached")


def test_missing_bucket_is_reported(s3_endpoint: str) -> None:
    with pytest.raises(StorageUnavailable, match="no bucket"):
        S3Store("no-such-bucket", "", s3_endpoint, "us-east-1").check()
