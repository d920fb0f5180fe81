"""Backup of a service and its restoration elsewhere: SQLite with a folder, and PostgreSQL with S3."""

import uuid
from pathlib import Path

import boto3
import pytest

from core.artifact.errors import ChecksumMismatch
from core.service import backup
from core.service.backup import BackupFailed
from core.service.storage import FolderStore
from tests import services
from tests.api.client import Api, Client, draw_generations, images_zip, load_base, running, validate_datasets
from tests.api.conftest import finetuned, make_settings

SECRET = "of both places, so that their signed URLs are equal"


class Place:
    """Location for a service: an empty database and an empty object store."""

    def __init__(self, kind: str, folder: Path, request: pytest.FixtureRequest) -> None:
        if kind == "sqlite":
            self.settings = make_settings(folder, url_secret=SECRET)
            return
        server: services.Postgres = request.getfixturevalue("postgres_server")
        request.getfixturevalue("monkeypatch").setenv("PATH", str(server.psql.parent), prepend=":")
        endpoint: str = request.getfixturevalue("s3_endpoint")
        url, bucket = server.create(f"backup_{uuid.uuid4().hex}"), f"backup-{uuid.uuid4().hex}"
        boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1").create_bucket(Bucket=bucket)
        self.settings = make_settings(
            folder,
            database_url=services.as_role(url, services.API),
            worker_database_url=services.as_role(url, services.WORKER),
            owner_database_url=url,
            storage_url=f"s3://{bucket}/prefix",
            s3_endpoint_url=endpoint,
            url_secret=SECRET,
        )


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_backup_is_restored_completely(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    first, second = (Place(kind, tmp_path / name, request).settings for name in ("first", "second"))
    if kind == "postgresql":
        from core.service.db.schema import upgrade

        upgrade(first.owner_database_url)
    with running(first) as api:
        load_base(api.services)
        tenant = api.tenant("Acme")
        domain = tenant.made("/v1/domains", {"name": "Fruit"})["id"]
        dataset = tenant.upload(f"/v1/domains/{domain}/datasets", images_zip()).json()["id"]
        validate_datasets(api.services)
        finetuned(tenant, domain, dataset, api.services)
        drawn = tenant.made(f"/v1/domains/{domain}/generations", {"class_id": 0, "count": 2})["id"]
        draw_generations(api.services)
        before = seen(api, tenant, domain, drawn)
        objects = backup.save(first, tmp_path / "backup")
        with pytest.raises(BackupFailed, match="not empty"):
            backup.restore(first, tmp_path / "backup")
    assert backup.restore(second, tmp_path / "backup") == objects
    assert len(objects) >= 4
    with running(second) as api:
        again = api.client(tenant.headers["Authorization"].removeprefix("Bearer "))
        assert seen(api, again, domain, drawn) == before
        stranger = api.tenant("stranger")  # the tables accept new rows, and row-level security works
        assert stranger.read("/v1/domains")["data"] == []
        assert again.made("/v1/domains", {"name": "Another"})["id"] != domain


def seen(api: Api, tenant: Client, domain: str, drawn: str) -> list[object]:
    adapters = api.admin.read("/v1/admin/adapters")["data"]
    files = [tenant.get(f"/v1/adapters/{adapter['id']}/download").content for adapter in adapters]
    images = [tenant.get(f"/v1/generations/{drawn}/images/{index}").content for index in range(2)]
    usage = tenant.read("/v1/usage")
    del usage["quotas"]["requests_per_minute"]  # a count of this minute, which is not in the backup
    return [adapters, files, images, tenant.read(f"/v1/domains/{domain}"), usage]


def test_damaged_backup_is_rejected(tmp_path: Path) -> None:
    first, second = make_settings(tmp_path / "first"), make_settings(tmp_path / "second")
    with running(first):
        FolderStore(tmp_path / "first" / "objects").put("a/b", b"bytes")
        backup.save(first, tmp_path / "backup")
    (tmp_path / "backup" / "objects" / "a" / "b").write_bytes(b"other")
    with pytest.raises(ChecksumMismatch):
        backup.restore(second, tmp_path / "backup")
    (tmp_path / "backup" / "objects.json").unlink()
    with pytest.raises(BackupFailed, match="no complete backup"):
        backup.restore(make_settings(tmp_path / "third"), tmp_path / "backup")


def test_row_with_a_missing_object_is_reported(tmp_path: Path) -> None:
    settings = make_settings(tmp_path / "first")
    with running(settings) as api:
        load_base(api.services)
        tenant = api.tenant("Acme")
        domain = tenant.made("/v1/domains", {"name": "Fruit"})["id"]
        tenant.upload(f"/v1/domains/{domain}/datasets", images_zip())
        store = api.services.store
        store.delete(store.list(""))
        with pytest.raises(BackupFailed, match="1 objects"):
            backup.save(settings, tmp_path / "backup")
