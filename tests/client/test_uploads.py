"""Multipart uploads over a network that loses some parts: lost parts are sent again, interrupted uploads resume."""

import asyncio
import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from difffit import AsyncClient, Client, archives, errors
from tests.client.conftest import Drawable, Server
from tests.client.proxy import Proxy, proxied
from tests.client.test_commands import Shell

PARTS = 3


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a folder of 13 MB, which is uploaded in three parts."""
    folder = tmp_path_factory.mktemp("photos")
    (folder / "photo").mkdir()
    for number in range(3):
        Image.new("RGB", (1200, 1200), (number, 0, 0)).save(folder / "photo" / f"{number}.bmp")
    return folder


@pytest.fixture
def proxy(server: Server) -> Iterator[Proxy]:
    with proxied(server.url) as proxy:
        yield proxy


def test_lost_parts_are_sent_again(proxy: Proxy, server: Server, photos: Path, name: str) -> None:
    progress: list[tuple[int, int]] = []
    with Client(proxy.url, server.key) as client:
        domain = client.domains.create(name).id
        proxy.faults = ["pass", "pass", "lose request", "lose answer", "unavailable"]
        created = client.datasets.upload(domain, photos, lambda *sent: progress.append(sent), in_parts=True)
        dataset = client.datasets.wait(created.id)
        assert (dataset.images, [upload.status for upload in client.datasets.uploads.list(domain)]) == (
            3,
            ["completed"],
        )
    assert progress[0] == (0, dataset.size_bytes)
    assert progress[-1] == (dataset.size_bytes, dataset.size_bytes)
    parts = [request for request in proxy.requests if request.get("content-type") == "application/octet-stream"]
    assert len(parts) == PARTS + 3
    assert not any("authorization" in request for request in parts), "a part's URL may belong to another server"


def test_interrupted_upload_sends_only_the_missing_parts(proxy: Proxy, server: Server, photos: Path, name: str) -> None:
    with Client(proxy.url, server.key, max_retries=0) as hasty:
        domain = hasty.domains.create(name).id
        proxy.faults = ["pass", "pass", "pass", "lose request"]
        with pytest.raises(errors.ConnectionFailed):
            hasty.datasets.upload(domain, photos, in_parts=True)
        (broken,) = hasty.datasets.uploads.list(domain)
        there = [part.etag is not None for part in hasty.datasets.uploads.get(domain, broken.id).parts]
        assert there == [True, False, False]
    progress: list[int] = []
    before = len(proxy.requests)

    async def again() -> str:
        async with AsyncClient(proxy.url, server.key) as client:
            return (
                await client.datasets.upload(domain, photos, lambda sent, _: progress.append(sent), in_parts=True)
            ).id

    assert asyncio.run(again()) == broken.dataset_id
    assert progress[0] == 5 * 2**20, "the first part must not be sent again"
    assert len(proxy.requests) - before == 2 + 2 + 1, "the list and the upload, two parts, the completion"


def test_upload_is_listed_and_aborted(server: Server, proxy: Proxy, photos: Path, name: str) -> None:
    with Client(proxy.url, server.key, max_retries=0) as hasty:
        domain = hasty.domains.create(name).id
        proxy.faults = ["pass", "pass", "lose request"]
        with pytest.raises(errors.ConnectionFailed):
            hasty.datasets.upload(domain, photos, in_parts=True)
    shell = Shell(server.url, server.key)
    (upload,) = shell.json("datasets", "uploads", name)
    assert (upload["status"], upload["filename"]) == ("open", f"{photos.name}.zip")
    assert upload["id"] in shell.text("datasets", "uploads", name)
    assert shell.json("datasets", "abort", name, upload["id"]) == {"aborted": upload["id"]}
    assert shell.json("datasets", "uploads", name) == []


def test_command_sends_large_archives_in_parts(
    server: Server, photos: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shell = Shell(server.url, server.key)
    shell.json("domains", "create", name)
    monkeypatch.setattr("difffit._sync.datasets.LARGE_BYTES", 10 * 2**20)
    shown = shell.json("datasets", "upload", name, photos)
    assert (shown["status"], shown["images"]) == ("ready", 3)
    assert len(shell.json("datasets", "uploads", name)) == 1
    assert archives.LARGE_BYTES == 64 * 2**20


def test_zip_with_another_checksum_is_rejected(client: Client, drawable: Drawable, photos: Path) -> None:
    session = client.datasets.uploads._session
    data = (photos / "photo" / "0.bmp").read_bytes()[:100]
    zip_of_two = archives_of(photos)
    body = {"size_bytes": len(zip_of_two), "sha256": hashlib.sha256(data).hexdigest()}
    path = "/v1/domains/{id}/datasets/uploads"
    upload = session.send("POST", path, body=body, id=drawable.id).json()
    size, parts = upload["part_bytes"], []
    for part in upload["parts"]:
        piece = zip_of_two[(part["number"] - 1) * size :][: part["size_bytes"]]
        answer = session.http.put(part["url"], content=piece).raise_for_status()
        parts.append({"number": part["number"], "etag": answer.headers["etag"]})
    complete = f"{path}/{{upload_id}}/complete"
    dataset = session.send("POST", complete, body={"parts": parts}, id=drawable.id, upload_id=upload["id"]).json()
    with pytest.raises(errors.JobFailed) as failed:
        client.datasets.wait(dataset["id"])
    assert failed.value.code == "checksum_mismatch"


def archives_of(folder: Path) -> bytes:
    with archives.open_archive(folder) as archive:
        archive.file.seek(0)
        return archive.file.read()
