"""Objects in a folder and on an S3 server."""

import io
import os
import resource
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from core.artifact.errors import ChecksumMismatch, NotFound
from core.service.config import Settings
from core.service.storage import FolderStore, ObjectStore, S3Store, open_store
from core.service.storage.errors import StorageFull, StorageUnavailable


def test_stored_bytes_are_read_back(store: ObjectStore) -> None:
    stored = store.put("tenants/a/x.bin", b"content")
    assert stored.size == 7
    assert store.get("tenants/a/x.bin", stored.sha256) == b"content"


@pytest.mark.parametrize("size", [0, 100, 9_000, 20_000_000])
def test_files_of_every_size_are_stored(store: ObjectStore, tmp_path: Path, size: int) -> None:
    path, back = tmp_path / "in", tmp_path / "out"
    path.write_bytes(bytes(range(256)) * (size // 256) + bytes(size % 256))
    with path.open("rb") as file:
        stored = store.put_file("a/file", file)
        assert not file.closed
    store.download("a/file", back, stored.sha256)
    assert back.read_bytes() == path.read_bytes()
    assert stored.size == size


def test_object_with_another_digest_is_rejected(store: ObjectStore, tmp_path: Path) -> None:
    store.put("a/x", b"content")
    with pytest.raises(ChecksumMismatch):
        store.get("a/x", "0" * 64)
    with pytest.raises(ChecksumMismatch):
        store.download("a/x", tmp_path / "x", "0" * 64)


def test_damaged_object_raises_checksum_mismatch(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    stored = store.put("a/x", b"content")
    (tmp_path / "a/x").write_bytes(b"contenT")
    with pytest.raises(ChecksumMismatch):
        store.get("a/x", stored.sha256)


def test_missing_object_raises_without_its_key(store: ObjectStore, tmp_path: Path) -> None:
    for read in (store.get, store.open, lambda key: store.download(key, tmp_path / "x")):
        with pytest.raises(NotFound) as error:
            read("no/such")
        assert "such" not in error.value.detail, "users must not see keys"


def test_log_has_the_key_of_a_missing_or_damaged_object(
    store: ObjectStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    store.put("a/damaged", b"content")
    with pytest.raises(ChecksumMismatch) as error:
        store.get("a/damaged", "0" * 64)
    assert "a/damaged" not in error.value.detail
    with pytest.raises(NotFound):
        store.get("a/missing")
    told = [record.getMessage() for record in caplog.records if record.name == "core.service.storage.objects"]
    assert [key for line in told for key in ("a/damaged", "a/missing") if key in line] == ["a/damaged", "a/missing"]


def test_delete_removes_only_the_given_keys(store: ObjectStore) -> None:
    for key in ("a/b/1", "a/b/c/2", "a/bc/3", "d/4"):
        store.put(key, b"x")
    assert [(stored.key, stored.size) for stored in store.page("a/b/", "", 10)] == [("a/b/1", 1), ("a/b/c/2", 1)]
    store.delete(["a/b/1", "a/b/c/2", "a/b/nothing"])
    assert store.list("") == ["a/bc/3", "d/4"]


def test_range_of_an_object_is_read(store: ObjectStore) -> None:
    content = bytes(range(256)) * 1000
    store.put("a/x", content)
    with store.open("a/x") as file:
        assert file.seek(-10, os.SEEK_END) == len(content) - 10
        assert file.read() == content[-10:]
        file.seek(100_000)
        assert file.read(300) == content[100_000:100_300]
        assert file.read(0) == b""
        assert (file.seek(len(content) + 5), file.read(1)) == (len(content) + 5, b"")
        with pytest.raises((OSError, ValueError)):
            file.seek(-len(content) - 1, os.SEEK_END)
    with pytest.raises(NotFound):
        store.open("no/such")


FIRST, LAST = bytes(5 * 2**20), b"the last part is as small as it is"


def test_object_is_uploaded_in_parts(store: ObjectStore) -> None:
    upload = store.begin_parts("a/x")
    store.put_part("a/x", upload, 2, io.BytesIO(b"another one first"))
    last = store.put_part("a/x", upload, 2, io.BytesIO(LAST))
    first = store.put_part("a/x", upload, 1, io.BytesIO(FIRST))
    assert store.parts("a/x", upload) == [first, last]
    assert (first.number, first.size, last.size) == (1, len(FIRST), len(LAST))
    assert store.list("") == [], "an incomplete object must not be visible"
    store.join_parts("a/x", upload, [first, last])
    assert store.get("a/x") == FIRST + LAST
    assert [stored.key for stored in store.page("", "", 10)] == ["a/x"]


def test_aborted_parts_are_deleted(store: ObjectStore) -> None:
    uploads = {key: store.begin_parts(key) for key in ("a/x", "a/y", "b/z")}
    for key, upload in uploads.items():
        store.put_part(key, upload, 1, io.BytesIO(LAST))
    store.drop_upload("a/x", uploads["a/x"])
    store.drop_upload("a/x", uploads["a/x"])
    if isinstance(store, S3Store):
        with pytest.raises(NotFound):
            store.parts("a/x", uploads["a/x"])
        assert store.drop_parts("a/", -60, held={"a/y"}) == 0
        assert store.parts("a/y", uploads["a/y"])
        assert store.drop_parts("", -60, held={"b/z"}) == 1
        assert store.parts("b/z", uploads["b/z"])
    else:
        assert store.parts("a/x", uploads["a/x"]) == []
        left = [stored.key for stored in store.page("", "", 10)]
        assert [key.split(".parts/")[0] for key in left] == ["a/y", "b/z"]


@pytest.mark.parametrize("key", ["../x", "/etc/x", "a/../../x"])
def test_keys_cannot_leave_the_folder(tmp_path: Path, key: str) -> None:
    with pytest.raises(ValueError, match="outside"):
        FolderStore(tmp_path / "objects").put(key, b"x")
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("size", [5_000, 5_000_000])
def test_full_disk_raises_and_keeps_existing_objects(tmp_path: Path, size: int) -> None:
    store = FolderStore(tmp_path)
    stored = store.put("a/x", b"content")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        with pytest.raises(StorageFull, match="is full"):
            store.put("a/x", bytes(size))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [stored.key for stored in store.page("", "", 10)] == ["a/x"]
    assert store.get("a/x", stored.sha256) == b"content"


def test_object_can_be_stored_while_its_folder_is_emptied(tmp_path: Path) -> None:
    store, rounds = FolderStore(tmp_path), range(300)

    def put_and_delete(name: str) -> None:
        for _ in rounds:
            store.put(f"a/b/c/{name}", b"content")
            assert store.get(f"a/b/c/{name}") == b"content"
            store.delete([f"a/b/c/{name}"])

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(put_and_delete, "wxyz"))
    assert list(tmp_path.iterdir()) == []


def test_failed_write_leaves_nothing(tmp_path: Path) -> None:
    class Broken:
        def read(self, size: int = -1) -> bytes:
            raise OSError(28, "No space left on device")

        def seek(self, offset: int) -> int:
            return 0

    store = FolderStore(tmp_path)
    with pytest.raises(OSError, match="space"):
        store.put_file("a/x", Broken())  # type: ignore[arg-type]  # the two methods that are used
    assert store.list("") == []


def test_unreachable_server_raises_storage_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with pytest.raises(StorageUnavailable):
        S3Store("bucket", "", f"http://127.0.0.1:{port}", "us-east-1").get("a")


def test_url_selects_the_store(tmp_path: Path) -> None:
    folder = open_store(Settings(storage_url=f"file://{tmp_path}/my%20objects"))
    assert isinstance(folder, FolderStore)
    assert folder.root.name == "my objects"
