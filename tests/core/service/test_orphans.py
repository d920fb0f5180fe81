"""Objects without a database row are deleted and referenced ones stay, on SQLite with a folder and on an S3 server."""

import datetime
import os
import time
import uuid
from pathlib import Path
from types import SimpleNamespace

import pytest

from core.artifact.errors import NotFound
from core.service import domains, orphans
from core.service.db.base import new_id
from core.service.db.models import GenerationImage, GenerationPreview
from core.service.db.session import Database
from core.service.finetunes import service as finetunes
from core.service.finetunes.service import FinetuneRequest
from core.service.storage import FolderStore, ObjectStore, S3Store, s3
from tests.core.service.rows import Sent, add_adapter, add_dataset, add_generation, add_upload, tenant_with_domain


def test_only_objects_without_a_row_are_deleted(database: Database, store: ObjectStore) -> None:
    scope, domain = tenant_with_domain(database)
    folder = domains.folder(scope.tenant, domain)
    with database.session(scope) as session:
        dataset = add_dataset(session, scope, domain, archive_key=f"{folder}datasets/ds_1/archive.zip")
        request = FinetuneRequest(dataset_id=dataset.id)
        finetune = finetunes.create(session, Sent(), domain, request)
        attempts = f"{folder}finetunes/{finetune.id}/attempts"
        finetune.checkpoint_key = f"{attempts}/2/checkpoint-50.safetensors"
        finetune.previous_checkpoint_key = f"{attempts}/2/checkpoint-30.safetensors"
        add_adapter(session, scope, domain, 1, object_key=f"{attempts}/1/adapter.safetensors")
        generation = add_generation(session, scope, domain)
        drawn = f"{folder}generations/{generation.id}"
        size = {"size_bytes": 1, "width": 8, "height": 8}
        image = GenerationImage(
            generation_id=generation.id, index=0, domain_id=domain, tenant_id=scope.tenant,
            object_key=f"{drawn}/2/0.png", seed=0,
            sha256="0" * 64, **size,
        )  # fmt: skip
        preview = GenerationPreview(
            generation_id=generation.id, index=0, step=1, tenant_id=scope.tenant,
            object_key=f"{drawn}/2/preview-0-1.png", sha256="0" * 64,
        )  # fmt: skip
        session.add_all([image, preview])
        coming, joined = (f"{folder}datasets/ds_{number}/archive.zip" for number in (3, 4))
        add_upload(session, scope, domain, object_key=coming)
        add_upload(session, scope, domain, object_key=joined)
    held = {
        f"{folder}datasets/ds_1/archive.zip",
        f"{attempts}/2/checkpoint-50.safetensors",
        f"{attempts}/2/checkpoint-30.safetensors",
        f"{attempts}/1/adapter.safetensors",
        f"{folder}finetunes/{finetune.id}/samples/100.png",
        f"{drawn}/2/0.png",
        f"{drawn}/2/preview-0-1.png",
        f"{coming}.parts/00001.{'0' * 64}",
        joined,
        "elsewhere/backup.sql",
        "tenants/notes.txt",
    }
    lost = {
        f"{folder}datasets/ds_2/archive.zip",
        f"{folder}datasets/ds_1/archive.zip.parts/00001.{'0' * 64}",
        f"{attempts}/2/checkpoint-10.safetensors",
        f"{attempts}/1/checkpoint-50.safetensors",
        f"{folder}finetunes/{new_id('ft')}/samples/100.png",
        f"{drawn}/1/0.png",
        f"{folder}adapters/{new_id('adp')}.safetensors",
        f"tenants/{new_id('ten')}/domains/{new_id('dom')}/datasets/ds_1/archive.zip",
    }
    for key in held | lost:
        store.put(key, b"content")
    assert orphans.remove_page(database, store, "", older_than_seconds=3600) == ""
    assert keys(store) == held | lost, "a young object may still get its row"
    assert orphans.remove_page(database, store, "", older_than_seconds=-1) == ""
    assert keys(store) == held


def keys(store: ObjectStore) -> set[str]:
    """Returns all keys, including those of parts, which listing does not show."""
    return {stored.key for stored in store.page("", "", 1000)}


def test_parts_in_a_bucket_stay_with_their_upload(database: Database, s3_endpoint: str) -> None:
    store = S3Store(f"parts-{uuid.uuid4().hex}", "", s3_endpoint, "us-east-1")
    store.create_bucket()
    scope, domain = tenant_with_domain(database)
    held, lost = (f"{domains.folder(scope.tenant, domain)}datasets/ds_{n}/archive.zip" for n in (1, 2))
    uploads = {key: store.begin_parts(key) for key in (held, lost)}
    with database.session() as session:
        add_upload(session, scope, domain, object_key=held)
    orphans.remove_page(database, store, "", older_than_seconds=-1)
    assert store.parts(held, uploads[held]) == []
    with pytest.raises(NotFound):
        store.parts(lost, uploads[lost])


def test_cleaner_without_a_scope_deletes_no_referenced_object(database: Database, tmp_path: Path) -> None:
    """For PostgreSQL such a session has no rows, so that every object would look unreferenced."""
    scope, domain = tenant_with_domain(database)
    store = FolderStore(tmp_path / "objects")
    key = f"{domains.folder(scope.tenant, domain)}datasets/ds_1/archive.zip"
    store.put(key, b"content")
    with database.session() as session:
        add_dataset(session, scope, domain, archive_key=key)
    untold = Database(database.engine.url.render_as_string(hide_password=False).replace("+psycopg", ""))
    orphans.remove_page(untold, store, "", older_than_seconds=-1)
    untold.dispose()
    assert store.list("") == [key]


def test_large_store_is_read_page_by_page(
    database: Database, store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(orphans, "PAGE", 3)
    folder = f"tenants/{new_id('ten')}/domains/{new_id('dom')}/"
    for number in range(7):
        store.put(f"{folder}datasets/{number}", b"")
    after, pages = "", 0
    while pages == 0 or after:
        after, pages = orphans.remove_page(database, store, after, -1), pages + 1
    assert pages >= 3
    assert store.list(folder) == []


def test_files_of_a_killed_writer_are_deleted(database: Database, tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    partial = tmp_path / f"tenants/{new_id('ten')}/domains/{new_id('dom')}/datasets/archive.zip.0123.partial"
    partial.parent.mkdir(parents=True)
    partial.write_bytes(b"half")
    os.utime(partial, (time.time() - 100_000,) * 2)
    orphans.remove_page(database, store, "", older_than_seconds=86_400)
    assert not partial.exists()


def test_worker_with_a_fast_clock_deletes_nothing_new(
    database: Database, store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = f"tenants/{new_id('ten')}/domains/{new_id('dom')}/datasets/archive.zip"
    store.put(key, b"its row comes soon")
    tomorrow = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=2)
    if isinstance(store, S3Store):
        ahead = SimpleNamespace(datetime=SimpleNamespace(now=lambda _: tomorrow), timedelta=datetime.timedelta)
        monkeypatch.setattr(s3, "datetime", SimpleNamespace(**vars(ahead), UTC=datetime.UTC))
    else:
        monkeypatch.setattr(time, "time", tomorrow.timestamp)
    orphans.remove_page(database, store, "", older_than_seconds=86_400)
    assert store.list("") == [key]
