"""An S3 server behind a connection that breaks at every byte: interrupted transfers are storage errors, and are
retried."""

import io
import os
import uuid
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import urlparse

import pytest

from core.artifact.errors import ChecksumMismatch, CoreError
from core.ml.bundled import sample_domain_folder
from core.service.datasets.archive import Limits, validate
from core.service.storage import S3Store
from core.service.storage.errors import ScratchFull, StorageFull, StorageRefused, StorageUnavailable
from core.service.storage.objects import ERRORS
from core.service.storage.s3_errors import S3Guard
from tests.faults.proxy import Direction, Fault, Proxy

SMALL, LARGE = os.urandom(3000), os.urandom(9 * 2**20)
LIMITS = Limits(members=100, image_bytes=2**22, inflated_bytes=2**24, pixels=10**7, classes=10)
PLACES = (0, 1, 40, 300, 1000, 2500, 5000, 2**20, 2**23 + 7)


class Broken:
    """Store behind a proxy, with operations that return whether they succeeded."""

    def __init__(self, store: S3Store, proxy: Proxy, folder: Path) -> None:
        self.store, self.proxy, self.folder = store, proxy, folder

    def put(self) -> bool:
        return self.store.put("new/put", SMALL).size == len(SMALL)

    def put_file(self) -> bool:
        path = self.folder / "large"
        path.write_bytes(LARGE)
        with path.open("rb") as file:
            return self.store.put_file("new/file", file).size == len(LARGE)

    def get(self) -> bool:
        return self.store.get("small") == SMALL

    def download(self) -> bool:
        self.store.download("large", self.folder / "down")
        return (self.folder / "down").read_bytes() == LARGE

    def ranges(self) -> bool:
        with self.store.open("large") as file:
            file.seek(5_000_000)
            middle = file.read(1_000_000)
            file.seek(10)
            return middle == LARGE[5_000_000:6_000_000] and file.read(500_000) == LARGE[10:500_010]

    def listing(self) -> bool:
        return {"small", "large"} <= set(self.store.list("")) and len(self.store.page("", "", 10)) >= 2

    def parts(self) -> bool:
        upload = self.store.begin_parts("new/parts")
        first = self.store.put_part("new/parts", upload, 1, io.BytesIO(LARGE[: 5 * 2**20]))
        last = self.store.put_part("new/parts", upload, 2, io.BytesIO(SMALL))
        parts = self.store.parts("new/parts", upload)
        self.store.join_parts("new/parts", upload, parts)
        return parts == [first, last]

    def delete(self) -> bool:
        self.store.delete(["new/put", "new/file"])
        return True

    def check(self) -> bool:
        self.store.check()
        return True


OPERATIONS: dict[str, Callable[[Broken], bool]] = {
    name: getattr(Broken, name)
    for name in ("put", "put_file", "get", "download", "ranges", "listing", "parts", "delete", "check")
}


@pytest.fixture
def broken(s3_endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Broken]:
    monkeypatch.setattr("botocore.endpoint.time", SimpleNamespace(sleep=lambda seconds: None))  # between its attempts
    with Proxy(urlparse(s3_endpoint).port or 0) as proxy:
        store = S3Store(f"broken-{uuid.uuid4().hex}", "prefix", f"http://127.0.0.1:{proxy.port}", "us-east-1")
        store.create_bucket()
        store.put("small", SMALL)
        store.put("large", LARGE)
        yield Broken(store, proxy, tmp_path)


@pytest.mark.parametrize("direction", ["up", "down"])
@pytest.mark.parametrize("name", OPERATIONS)
def test_every_broken_connection_is_storage_unavailable(broken: Broken, name: str, direction: Direction) -> None:
    raised = list[tuple[str, type[CoreError], bool]]()
    for fault in ("reset", "cut"):
        for place in PLACES:
            broken.proxy.strike(fault, place, direction)
            before = _counted()
            try:
                assert OPERATIONS[name](broken)
            except StorageUnavailable as error:
                raised.append((error.code, type(error), _counted() > before))
            broken.proxy.mend()
    assert set(raised) == {("storage_unavailable", StorageUnavailable, True)}
    assert OPERATIONS[name](broken), "it must work again with a working connection"


@pytest.mark.parametrize("fault", ["reset", "cut"])
@pytest.mark.parametrize("name", ["get", "download", "ranges"])
def test_interrupted_body_is_requested_again(broken: Broken, name: str, fault: Fault) -> None:
    for place in (600, 2000, 200_000, 3_000_000):
        broken.proxy.strike(fault, place, "down", times=2)
        assert OPERATIONS[name](broken)
        broken.proxy.mend()
    assert broken.proxy.breaks >= 2


def test_zip_in_order_takes_few_requests(broken: Broken) -> None:
    """Reads small images in the zip's order, with far fewer requests than images and no more bytes than the zip has."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for number in range(1000):
            archive.writestr(f"class/{number:04}.png", os.urandom(20_000))
    broken.store.put("zip", buffer.getvalue())
    asked: list[int] = []
    broken.store.client.meta.events.register(
        "after-call.s3.GetObject", lambda parsed, **_: asked.append(parsed["ContentLength"])
    )
    with broken.store.open("zip") as file, zipfile.ZipFile(file) as archive:
        for info in archive.infolist():
            archive.read(info)  # checks its CRC
    assert len(asked) <= 10
    assert sum(asked) <= len(buffer.getvalue()) * 1.2


def test_broken_connection_in_a_zip_rejects_no_image(broken: Broken) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for path in sorted((sample_domain_folder() / "fruit").glob("*.png"))[:4]:
            archive.write(path, f"fruit/{path.name}")
        archive.writestr("fruit/first.bin", os.urandom(2**20))
        archive.write(path, "heart/last.png")
    broken.store.put("zip", buffer.getvalue())
    with broken.store.open("zip") as file:
        broken.proxy.strike("cut", 0, "down")
        with pytest.raises(StorageUnavailable):
            validate(file, LIMITS)
    broken.proxy.mend()
    with broken.store.open("zip") as file:
        assert len(validate(file, LIMITS).members) == 5


def test_empty_object_can_be_opened(broken: Broken) -> None:
    broken.store.put("empty", b"")
    with broken.store.open("empty") as file:
        assert file.read() == b""


def test_full_local_disk_is_not_reported_as_the_stores(broken: Broken) -> None:
    """Writes to a device that accepts no byte."""
    with pytest.raises(ScratchFull) as told:
        broken.store.download("small", Path("/dev/full"))
    assert (told.value.code, told.value.status) == ("scratch_full", 503)
    assert not isinstance(told.value, StorageFull)


def test_complete_body_with_another_digest_is_reported_as_damaged(broken: Broken) -> None:
    with pytest.raises(ChecksumMismatch):
        broken.store.download("small", broken.folder / "x", "0" * 64)


def test_operator_errors_are_reported_as_such(broken: Broken, caplog: pytest.LogCaptureFixture) -> None:
    elsewhere = S3Store("no-such-bucket", "", f"http://127.0.0.1:{broken.proxy.port}", "us-east-1")
    for call in (lambda: elsewhere.get("a"), lambda: elsewhere.open("a"), lambda: elsewhere.put("a", b"")):
        with pytest.raises(StorageRefused, match=r"NoSuchBucket: the bucket does not exist.*operator") as told:
            call()
        assert told.value.code == "storage_unavailable"
    assert [record.levelname for record in caplog.records if record.name.startswith("core.")] == ["ERROR"] * 3


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("AccessDenied", StorageRefused),
        ("RequestTimeTooSkewed", StorageRefused),
        ("ExpiredToken", StorageRefused),
        ("SlowDown", StorageUnavailable),
        ("InternalError", StorageUnavailable),
        ("QuotaExceeded", StorageFull),
    ],
)
def test_server_responses_are_classified(code: str, kind: type[CoreError]) -> None:
    from botocore.exceptions import ClientError

    with pytest.raises(StorageUnavailable, match=code) as told, S3Guard("key"):
        raise ClientError({"Error": {"Code": code}}, "GetObject")
    assert type(told.value) is kind


def _counted() -> float:
    return float(ERRORS.labels("storage_unavailable")._value.get())
