"""Imports of data sets: a worker's attempts on real rows, with a real HTTP server and a real S3 server."""

import uuid
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config

from core.service import jobs, metering
from core.service.config import Settings
from core.service.datasets import imports
from core.service.db.models import Dataset
from core.service.errors import ImportRefused, ImportsOff, StorageQuotaExceeded
from core.service.orphans import remove_page
from core.service.storage import ObjectStore
from core.service.storage.errors import StorageUnavailable
from tests import services
from tests.api.client import png
from tests.core.service.rows import Sent, tenant_with_domain
from tests.receiver import Receiver, content, receiving, status
from worker.context import Context
from worker.runner import Runner
from worker.tasks.datasets import Validation

NAMES = ("apple", "pear")


@pytest.fixture
def server() -> Iterator[Receiver]:
    with receiving(image) as server:
        yield server


def image(request: BaseHTTPRequestHandler) -> None:
    """Answers `/7.png` with an image of colour 7."""
    content(png(int(request.path[1:].partition(".")[0])))(request)


@pytest.fixture
def setting(database_url: str, tmp_path: Path, store: ObjectStore) -> Iterator[Callable[..., "Service"]]:
    contexts: list[Context] = []

    def make(**changes: Any) -> Service:
        url = services.as_role(database_url, services.WORKER)
        values = {"data_dir": tmp_path, "database_url": url, "dataset_import_hosts": "127.0.0.1,nobody.invalid"}
        values |= {"dataset_imports_allow_private": True, "upload_part_bytes": 5 * 2**20, **changes}
        settings = Settings(_env_file=None, **values)
        contexts.append(Context(settings, Sent(), end_process=lambda: None))
        contexts[-1].store = store
        return Service(contexts[-1])

    yield make
    for context in contexts:
        context.stop()
        context.close()


@pytest.fixture
def service(setting: Callable[..., "Service"]) -> "Service":
    return setting()


class Service:
    """Worker and rows of one tenant with a domain."""

    def __init__(self, context: Context) -> None:
        self.context, self.database, self.store = context, context.database, context.store
        self.runner = Runner(context, dict.fromkeys(jobs.KINDS, Validation))
        self.scope, self.domain = tenant_with_domain(self.database, uuid.uuid4().hex)

    def create(self, source: dict[str, Any], name: str | None = None) -> str:
        with self.database.session(self.scope) as session:
            return imports.create(session, self.context, self.domain, source, name).id

    def create_list(self, server: Receiver, *urls: str) -> str:
        """Imports these paths of the server, or URLs, in turn as the classes apple and pear."""
        images = [
            {"url": url if "://" in url else f"http://127.0.0.1:{server.port}/{url}", "class_name": NAMES[index % 2]}
            for index, url in enumerate(urls)
        ]
        return self.create({"images": images})

    def run(self) -> None:
        assert self.runner.run_next(Dataset)

    def row(self, id: str) -> Dataset:
        with self.database.session() as session:
            row = session.get_one(Dataset, id)
            assert row.rejected is not None, "loads the column"
            assert row.members is not None
            assert row.to_fetch is None or row.to_fetch
            return row

    def ready(self, id: str) -> Dataset:
        row = self.row(id)
        assert row.status == "ready", row.error
        return row

    def stored_bytes(self) -> int:
        with self.database.session(self.scope) as session:
            return metering.usage(session, self.context.settings).stored_bytes

    def objects(self) -> list[str]:
        return [key.rpartition("/datasets/")[2].partition("/")[2] for key in self.store.list("tenants/")]


def rejected(row: Dataset) -> list[tuple[str, str]]:
    return [(entry["file"], entry["code"]) for entry in row.rejected]


def test_images_of_a_list_become_a_data_set(service: Service, server: Receiver) -> None:
    id = service.create_list(server, "1.png", "2.png", "3.png?signature=secret", "4.png")
    waiting = service.row(id)
    assert (waiting.status, waiting.size_bytes) == ("validating", 0)
    assert waiting.to_fetch is not None
    service.run()
    row = service.ready(id)
    assert [member["file"] for member in row.members] == [
        "apple/0001-1.png",
        "pear/0002-2.png",
        "apple/0003-3.png",
        "pear/0004-4.png",
    ]
    assert [(label["name"], label["images"]) for label in row.classes] == [("apple", 2), ("pear", 2)]
    assert (row.to_fetch, row.rejected, row.report["rejected_count"]) == (None, [], 0)
    assert len(service.store.get(row.archive_key)) == row.size_bytes == service.stored_bytes()
    assert service.objects() == [
        *("classes/0.png", "classes/1.png", "import-1.thumbnails", "import-1.zip"),
    ]


def test_equal_and_strange_names_do_not_collide(service: Service, server: Receiver) -> None:
    id = service.create_list(server, "1.png", "2.labels.csv", "1.png?b", "3", "4.%2E%2E%2Fx%0A", "5.php?id=9")
    service.run()
    row = service.ready(id)
    files = [member["file"] for member in row.members]
    assert files == ["apple/0001-1.png", "pear/0002-2-labels", "pear/0004-3", "apple/0005-x", "pear/0006-5"]
    assert rejected(row) == [("apple/0003-1.png", "duplicate")]


def test_failures_of_single_files_are_in_the_report(service: Service, server: Receiver) -> None:
    def answer(request: BaseHTTPRequestHandler) -> None:
        if "gone" in request.path:
            status(404)(request)
        elif "text" in request.path:
            content(b"text")(request)
        elif "huge" in request.path:
            content(b"", length=10**10)(request)
        else:
            image(request)

    server.answer = answer
    at, nobody = f"http://127.0.0.1:{server.port}", "http://nobody.invalid/a.png"
    id = service.create_list(server, "1.png", "2.png", "gone.png?signature=secret", nobody, "text.png", "huge.png")
    service.run()
    assert rejected(service.ready(id)) == [
        (f"{at}/gone.png", "http_status"),
        (nobody, "host_unknown"),
        (f"{at}/huge.png", "too_large"),
        ("apple/0005-text.png", "not_an_image"),
    ]


def test_import_without_any_file_is_rejected(service: Service, server: Receiver) -> None:
    server.answer = status(403)
    id = service.create_list(server, "1.png", "2.png")
    service.run()
    row = service.row(id)
    assert (row.status, row.error_code, row.to_fetch, row.size_bytes) == ("rejected", "nothing_fetched", None, 0)
    assert "status 403" in (row.error_detail or "")
    assert [code for _, code in rejected(row)] == ["http_status"] * 2
    assert (service.stored_bytes(), service.objects()) == (0, [])


def test_unusable_images_leave_no_objects(service: Service, server: Receiver) -> None:
    server.answer = lambda request: (status(404) if "gone" in request.path else content(b"text"))(request)
    id = service.create_list(server, "1.png", "gone.png")
    service.run()
    row = service.row(id)
    assert (row.status, row.error_code) == ("rejected", "too_few_images")
    assert [code for _, code in rejected(row)] == ["http_status", "not_an_image"]
    assert (row.size_bytes, service.stored_bytes(), service.objects()) == (0, 0, [])


def test_large_import_is_stored_in_parts(service: Service, server: Receiver) -> None:
    """The second part begins within an image. The bytes after an image's end do not matter to its decoder."""
    server.answer = lambda request: content(png(int(request.path[1])) + bytes(4 * 2**20))(request)
    id = service.create_list(server, "1", "2", "3")
    service.run()
    row = service.ready(id)
    assert row.size_bytes == service.stored_bytes() > 12 * 2**20
    assert not any("parts" in key for key in service.objects())


def test_full_storage_ends_the_import_without_objects(setting: Callable[..., Service], server: Receiver) -> None:
    service = setting(max_stored_bytes=11 * 2**20)
    server.answer = lambda request: content(png(int(request.path[1])) + bytes(4 * 2**20))(request)
    id = service.create_list(server, "1", "2", "3")
    service.run()
    row = service.row(id)
    assert (row.status, row.error_code) == ("rejected", StorageQuotaExceeded.code)
    assert (row.to_fetch, row.size_bytes, service.stored_bytes(), service.objects()) == (None, 0, 0, [])


@pytest.mark.parametrize(
    ("limit", "code"),
    [({"max_multipart_bytes": 100}, "import_too_large"), ({"dataset_import_seconds": 1e-9}, "import_too_slow")],
)
def test_limits_of_the_whole_import_end_it(
    setting: Callable[..., Service], server: Receiver, limit: dict[str, Any], code: str
) -> None:
    service = setting(**limit)
    id = service.create_list(server, "1.png", "2.png", "3.png")
    service.run()
    assert service.row(id).error_code == code
    assert (service.stored_bytes(), service.objects()) == (0, [])


def test_attempt_after_a_lost_worker_starts_again(service: Service, server: Receiver) -> None:
    """The lost attempt has stored a part and reserved its bytes. It wakes up after the second has begun."""
    id = service.create_list(server, "1.png", "2.png")
    with service.database.session() as session:
        claim = jobs.claim_next(session, Dataset, "wrk_lost", 60)
    assert claim is not None
    lost = Validation(service.context, claim)
    with service.database.session() as session:
        lost.load(session, session.get_one(Dataset, id))
    fetching = lost._import
    assert fetching is not None
    upload = service.store.begin_parts(fetching.key)
    parts = imports._Parts(service.store, fetching.key, upload, 3, fetching._reserve)
    parts.write(b"part")
    parts.send_full()
    assert service.stored_bytes() == 3
    with service.database.session() as session:
        job = session.get_one(Dataset, id)
        jobs.requeue(session, service.context.dispatcher, job)
    service.run()
    row = service.ready(id)
    assert row.size_bytes == service.stored_bytes()
    assert sorted(service.objects()) == ["classes/0.png", "classes/1.png", "import-2.thumbnails", "import-2.zip"]
    with pytest.raises(imports.Cancelled):
        fetching._reserve(1)
    assert remove_page(service.database, service.store, "", 0) == ""
    assert len(service.objects()) == 4, "the sweep of orphans keeps all of them"


def test_unavailable_store_makes_the_import_wait(
    service: Service, server: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise StorageUnavailable("it is away")

    id = service.create_list(server, "1.png", "2.png")
    with monkeypatch.context() as patch:
        patch.setattr(type(service.store), "put_part", refuse)
        service.run()
    row = service.row(id)
    assert (row.status, row.error_code) == ("validating", "storage_unavailable")
    assert row.to_fetch is not None, "the next attempt needs it"


def test_stopped_worker_leaves_the_import_to_another(service: Service, server: Receiver) -> None:
    def stop(request: BaseHTTPRequestHandler) -> None:
        service.context.stopping.set()
        image(request)

    server.answer = stop
    id = service.create_list(server, "1.png", "2.png")
    service.run()
    row = service.row(id)
    assert (row.status, len(server.received)) == ("validating", 1)
    service.context.stopping.clear()
    server.answer = image
    service.run()
    assert service.ready(id).images == 2


@pytest.fixture
def bucket(s3_endpoint: str) -> Any:
    """Returns a public bucket, with a client that may write."""
    client = boto3.client(
        "s3", endpoint_url=s3_endpoint, region_name="us-east-1", config=Config(max_pool_connections=1)
    )
    name = f"drawings-{uuid.uuid4().hex}"
    client.create_bucket(Bucket=name, ACL="public-read")
    for key, colour in (
        ("set/apple/1.png", 1),
        ("set/apple/2 + ü&.png", 2),
        ("set/pear/1.png", 3),
        ("set/loose.png", 4),
        ("settings/apple/5.png", 5),
    ):
        client.put_object(Bucket=name, Key=key, Body=png(colour), ACL="public-read")
    client.put_object(Bucket=name, Key="set/apple/", Body=b"", ACL="public-read")
    return client, name, f"{s3_endpoint}/{name}"


@pytest.mark.parametrize("prefix", ["set", "set/"])
def test_folders_of_a_bucket_become_classes(service: Service, bucket: Any, prefix: str) -> None:
    id = service.create({"bucket": {"url": bucket[2], "prefix": prefix}}, "Bucket")
    service.run()
    row = service.ready(id)
    assert {member["file"] for member in row.members} == {"apple/1.png", "apple/2 + ü&.png", "pear/1.png"}
    assert (row.name, rejected(row)) == ("Bucket", [("loose.png", "no_class_folder")])


def test_bucket_that_cannot_be_listed_is_explained(service: Service, bucket: Any) -> None:
    id = service.create({"bucket": {"url": bucket[2] + "-missing", "prefix": ""}})
    service.run()
    row = service.row(id)
    assert (row.status, row.error_code) == ("rejected", "bucket_unreadable")
    assert "status 404" in (row.error_detail or "")


def test_imports_are_refused_by_default(setting: Callable[..., Service], server: Receiver) -> None:
    with pytest.raises(ImportsOff):
        setting(dataset_import_hosts="").create_list(server, "1.png")


def test_wrong_entries_are_refused_before_anything_is_fetched(service: Service, server: Receiver) -> None:
    for source, field in (
        ({"images": [{"url": "https://other.example.com/1.png", "class_name": "a"}]}, "images.0.url"),
        ({"images": [{"url": f"{server.url}#part", "class_name": "a"}]}, "images.0.url"),
        ({"images": [{"url": server.url, "class_name": "a/b"}]}, "images.0.class_name"),
        ({"bucket": {"url": server.url, "prefix": ""}}, "bucket.url"),
    ):
        with pytest.raises(ImportRefused) as refused:
            service.create(source)
        assert refused.value.errors[0]["field"] == f"body.{field}"
    assert server.received == []
