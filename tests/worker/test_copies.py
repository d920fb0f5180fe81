"""Copies of data sets by a worker's attempts, on real rows and objects."""

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from core.service import discards, domains, jobs, metering
from core.service.config import Settings
from core.service.datasets import contents, service, versions
from core.service.db.models import Dataset
from core.service.db.paging import PageRequest
from core.service.storage import FolderStore
from tests import services
from tests.api.client import png, zip_of
from tests.core.service.rows import Sent, tenant_with_domain
from worker.context import Context
from worker.runner import Runner
from worker.tasks.datasets import Validation


@pytest.fixture
def context(database_url: str, tmp_path: Path) -> Iterator[Context]:
    url = services.as_role(database_url, services.WORKER)
    settings = Settings(_env_file=None, data_dir=tmp_path, database_url=url)  # type: ignore[call-arg]
    context = Context(settings, Sent(), end_process=lambda: None)
    yield context
    context.stop()
    context.close()


@pytest.mark.parametrize("damage", ["missing", "changed", "second missing"])
def test_failed_copy_counts_no_bytes_and_leaves_no_objects(context: Context, damage: str) -> None:
    runner, store = Runner(context, dict.fromkeys(jobs.KINDS, Validation)), context.store
    assert isinstance(store, FolderStore)
    scope, domain = tenant_with_domain(context.database, uuid.uuid4().hex)
    zips = [zip_of({f"cat/{n}.png": png(n), f"dog/{n}.png": png(n + 20)}) for n in (1, 9)]
    originals = []
    for data in zips:
        with context.database.session(scope) as session:
            key = service.archive_key(scope, domain, f"ds_{uuid.uuid4().hex}")
            originals.append(service.create(session, context.dispatcher, domain, store.put(key, data)).id)
        assert runner.run_next(Dataset)
    with context.database.session(scope) as session:
        edit = versions.Edit(add_dataset_ids=originals[1:])
        version = versions.create(session, context, originals[0], edit).id
    assert runner.run_next(Dataset)
    objects = store.list("")
    with context.database.session(scope) as session:
        target = domains.create(session, "target", "", "mini").id
        copy = versions.copy(session, context, target, version)
        sources = [zip["copy_of"] for zip in copy.sources]
    damaged = sources[damage == "second missing"]
    if damage == "changed":
        store.put(damaged, zips[1])
    else:
        store.delete([damaged])
        objects.remove(damaged)
    assert runner.run_next(Dataset)
    while discards.remove_page(context.database, store):
        pass
    assert store.list("") == objects
    with context.database.session(scope) as session:
        row = service.get(session, copy.id)
        expected = "checksum_mismatch" if damage == "changed" else "not_found"
        assert (row.status, row.error_code, row.zips) == ("rejected", expected, [])
        assert contents.images(session, copy.id, PageRequest(limit=10), contents.ImageFilter()).data == []
        assert metering.usage(session, context.settings).stored_bytes == sum(map(len, zips))
