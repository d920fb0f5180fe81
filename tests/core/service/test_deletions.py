"""Receipts of deletions: they count rows and objects, and are done when no worker holds any of the adapters."""

import datetime
import io
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, insert, select, update

from core.artifact.errors import NotFound
from core.service import adapters, deletions, domains, fleet, idempotency, jobs, keys, metering, tenants
from core.service.db.models import (
    Deletion,
    Finetune,
    Generation,
    GenerationImage,
    GenerationPreview,
    IdempotencyKey,
    Worker,
)
from core.service.db.paging import PageRequest
from core.service.db.session import Database, database_now
from core.service.errors import Unauthenticated
from core.service.finetunes import service as finetunes
from core.service.finetunes.service import FinetuneRequest
from core.service.fleet import WORKER_SILENCE
from core.service.idempotency import Answer
from core.service.storage import FolderStore, ObjectStore
from core.service.storage.errors import StorageUnavailable
from core.service.tenancy import SYSTEM, Scope
from tests.core.service.rows import (
    Sent,
    acting,
    add_adapter,
    add_dataset,
    add_finetune,
    add_generation,
    add_upload,
    tenant_with_domain,
)


def filled(database: Database, scope: Scope, domain: str) -> None:
    with database.session(scope) as session:
        dataset = add_dataset(session, scope, domain).id
        finetunes.create(session, Sent(), domain, FinetuneRequest(dataset_id=dataset))
        for version, digest in enumerate("ab", 1):
            add_adapter(session, scope, domain, version, sha256=digest * 64)
        add_generation(session, scope, domain)
        add_upload(session, scope, domain)


def read(database: Database, id: str) -> Deletion:
    with database.session() as session:
        return deletions.get(session, id)


def worker_tells(database: Database, id: str, evicted_at: datetime.datetime | None) -> None:
    report = {"queues": [], "device": "none", "base_digest": None, "resident": [], "evicted_at": evicted_at}
    with database.session() as session:
        fleet.report_worker(session, id, "host", 1, report)


def now(database: Database) -> datetime.datetime:
    with database.session() as session:
        return database_now(session)


def test_deleted_domain_leaves_a_receipt(database: Database, store: ObjectStore) -> None:
    scope, domain = tenant_with_domain(database)
    caller = Scope(scope.tenant, "key_1")
    filled(database, caller, domain)
    with database.session(scope) as session:
        kept = domains.create(session, "kept", "", "mini").id
        add_adapter(session, scope, kept, 1, sha256="a" * 64)
    folder = domains.folder(scope.tenant, domain)
    for number in range(3):
        store.put(f"{folder}generations/gen_1/{number}.png", b"image")
    store.put(f"{domains.folder(scope.tenant, kept)}x", b"another's")
    upload = store.begin_parts(f"{folder}datasets/ds_9/archive.zip")
    store.put_part(f"{folder}datasets/ds_9/archive.zip", upload, 1, io.BytesIO(b"part"))
    worker_tells(database, "wrk_1", None)

    with database.session(caller) as session:
        id = domains.delete(session, domain).id
    receipt = read(database, id)
    assert (receipt.kind, receipt.target, receipt.actor_key_id) == ("domain", domain, "key_1")
    assert receipt.rows == {
        "adapters": 2, "dataset_uploads": 1, "datasets": 1, "domains": 1, "finetune_events": 1, "finetunes": 1,
        "generations": 1,
    }  # fmt: skip
    assert receipt.adapters == ["a" * 64, "b" * 64]
    assert (receipt.objects, receipt.emptied_at, receipt.done_at) == (0, None, None)

    deletions.advance(database, store)
    receipt = read(database, id)
    assert receipt.objects == (4 if isinstance(store, FolderStore) else 3), "in a folder each part is a separate file"
    assert receipt.bytes >= 15
    assert [stored.key for stored in store.page("", "", 10)] == [f"{domains.folder(scope.tenant, kept)}x"]
    assert receipt.done_at is None, "a worker may still hold its adapters"
    with pytest.raises(NotFound):
        store.get(f"{folder}generations/gen_1/0.png")

    store.put(f"{folder}generations/gen_1/late.png", b"of a worker that had not heard")
    worker_tells(database, "wrk_1", now(database))
    deletions.advance(database, store)
    later = read(database, id)
    assert (later.objects, later.done_at) == (receipt.objects + 1, None)
    deletions.advance(database, store)
    assert read(database, id).done_at is None, "the worker's last eviction was before the last file was deleted"
    worker_tells(database, "wrk_1", now(database))
    deletions.advance(database, store)
    done = read(database, id)
    assert done.done_at is not None
    deletions.advance(database, store)
    assert read(database, id).done_at == done.done_at


def test_silent_worker_does_not_block_a_deletion(database: Database, store: ObjectStore) -> None:
    scope, domain = tenant_with_domain(database)
    worker_tells(database, "wrk_1", None)
    with database.session(scope) as session:
        id = domains.delete(session, domain).id
        silent = database_now(session) - 2 * WORKER_SILENCE
        session.execute(update(Worker).values(heartbeat_at=silent))
    for _ in range(2):
        deletions.advance(database, store)
    assert read(database, id).done_at is not None


def test_deletion_retries_an_unreachable_store(database: Database, store: ObjectStore) -> None:
    scope, domain = tenant_with_domain(database)
    store.put(f"{domains.folder(scope.tenant, domain)}x", b"x")
    with database.session(scope) as session:
        id = domains.delete(session, domain).id

    class Away(FolderStore):
        def drop_parts(self, *_: Any, **__: Any) -> int:
            raise StorageUnavailable("it is away")

    with pytest.raises(StorageUnavailable):
        deletions.advance(database, Away(Path("/nowhere")))
    for _ in range(2):
        deletions.advance(database, store)
    later = read(database, id)
    assert (later.objects, later.done_at is not None) == (1, True)


def test_many_deletions_of_a_tenant_do_not_delay_those_of_another(database: Database, store: ObjectStore) -> None:
    """No deletion can end, since a worker still holds adapters; each has its turn nevertheless."""
    flooding, quiet = (tenant_with_domain(database, name)[0] for name in ("loud", "quiet"))
    worker_tells(database, "wrk_1", None)
    with database.session() as session:
        loud = [
            deletions.receipt(acting(session, flooding), "adapter", f"adp_{n}", flooding.tenant, f"a/{n}/").id
            for n in range(50)
        ]
        late = deletions.receipt(acting(session, quiet), "adapter", "adp_q", quiet.tenant, "b/").id
    store.put("b/x", b"x")
    deletions.advance(database, store)
    assert read(database, late).objects == 1
    assert sum(read(database, id).emptied_at is not None for id in loud) == 19, (
        "all others of the call are the loud ones"
    )
    for _ in range(2):
        deletions.advance(database, store)
    assert all(read(database, id).emptied_at for id in loud)
    worker_tells(database, "wrk_1", now(database))
    for _ in range(3):
        deletions.advance(database, store)
    assert all(read(database, id).done_at for id in [*loud, late])


def test_tenant_deletion_leaves_a_receipt_and_other_tenants(database: Database, store: ObjectStore) -> None:
    scope, domain = tenant_with_domain(database, "one")
    other, theirs = tenant_with_domain(database, "two")
    for who, where in ((scope, domain), (other, theirs)):
        filled(database, who, where)
        store.put(f"{domains.folder(who.tenant, where)}x", b"x")
        with database.session() as session:
            keys.issue(session, who.tenant, "key")
    with database.session() as session:
        metering.meter(session, scope.tenant, images=3)
        id = tenants.delete(session, scope.tenant).id
        assert adapters.deleted(session, {"a" * 64, "c" * 64}) == {"c" * 64}, "the other tenant has the same adapter"
    for _ in range(2):
        deletions.advance(database, store)
    receipt = read(database, id)
    assert (receipt.kind, receipt.objects, receipt.done_at is not None) == ("tenant", 1, True)
    assert {name: receipt.rows[name] for name in ("tenants", "domains", "adapters", "api_keys")} == {
        "tenants": 1, "domains": 1, "adapters": 2, "api_keys": 1
    }  # fmt: skip
    assert "usage_days" not in receipt.rows
    assert store.list("") == [f"{domains.folder(other.tenant, theirs)}x"]
    with database.session() as session:
        assert [row.id for row in domains.page(acting(session, SYSTEM), PageRequest()).data] == [theirs]
        usage = metering.days_page(acting(session, SYSTEM), PageRequest(), scope.tenant).data
        assert [(day.tenant_id, day.images) for day in usage] == [(scope.tenant, 3)], "bills need it"
        with pytest.raises(NotFound):
            deletions.get(acting(session, other), id)
        assert deletions.page(acting(session, other), PageRequest()).data == []
        assert [row.id for row in deletions.page(acting(session, SYSTEM), PageRequest(), scope.tenant).data] == [id]


def test_stored_responses_about_a_domain_are_deleted_with_it(database: Database) -> None:
    scope, domain = tenant_with_domain(database)
    caller = Scope(scope.tenant, "key_1")
    bodies = {"a": {"id": domain}, "b": {"id": "gen_1", "domain_id": domain}, "c": {"id": "dom_other"}}
    for key, body in bodies.items():
        with database.session(caller) as session:
            idempotency.begin(session, key, "d")
        with database.session(caller) as session:
            idempotency.complete(session, key, Answer(201, body))
    with database.session(scope) as session:
        domains.delete(session, domain)
    answers = []
    for key in bodies:
        with database.session(caller) as session:
            answers.append(idempotency.begin(session, key, "d"))
    assert answers == [None, None, Answer(201, {"id": "dom_other"})]


def test_stored_responses_about_a_generation_are_found_by_an_index(database: Database) -> None:
    scope, domain = tenant_with_domain(database)
    common = {"scope": "key_1", "tenant_id": scope.tenant, "request_digest": "d", "status_code": 202}
    ids = [f"gen_{number}" for number in range(3000)]
    rows = [common | {"key": id, "object_id": id, "object_domain_id": domain, "body": {"id": id}} for id in ids]
    list_of_one = {"object_id": None, "object_domain_id": domain, "body": {"data": [{"id": "gen_7"}]}}
    of_an_earlier_release = {"object_id": None, "object_domain_id": None, "body": {"id": "gen_7"}}
    rows += [common | {"key": "list"} | list_of_one, common | {"key": "earlier"} | of_an_earlier_release]
    with database.session() as session:
        session.execute(insert(IdempotencyKey), rows)
    steps: list[None] = []
    with database.session(scope) as session:
        connection: Any = session.connection().connection.driver_connection
        if database.engine.dialect.name == "sqlite":
            connection.set_progress_handler(lambda: steps.append(None), 100)
        idempotency.forget(session, scope.tenant, "gen_7")
        if database.engine.dialect.name == "sqlite":
            connection.set_progress_handler(None, 0)
        left = set(session.scalars(select(IdempotencyKey.key)))
    assert left == set(ids) - {"gen_7"}
    assert len(steps) < 30, "SQLite needs more than 3000 steps to read 3000 rows"


@pytest.mark.parametrize("kind", ["domain", "tenant"])
def test_very_many_rows_are_deleted_in_steps(
    database: Database, store: ObjectStore, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(deletions, "_ROWS", 3)
    scope, domain = tenant_with_domain(database)
    kept, _ = tenant_with_domain(database, "kept")
    with database.session() as session:
        for number in range(7):
            generation = add_generation(session, scope, domain, status="succeeded", finished_at=database_now(session))
            common = {"tenant_id": scope.tenant, "object_key": "k", "sha256": "0" * 64, "size_bytes": 1}
            size = {"width": 8, "height": 8}
            session.add(
                GenerationImage(generation_id=generation.id, index=0, domain_id=domain, seed=0, **size, **common)
            )
            session.add(GenerationPreview(generation_id=generation.id, index=0, step=number, **common))
        add_generation(session, scope, domain)
        add_finetune(session, scope, domain)
        key = keys.issue(session, scope.tenant, "key").key
    store.put(f"{domains.folder(scope.tenant, domain)}x", b"x")
    with database.session() as session:
        if kind == "domain":
            id = domains.delete(acting(session, scope), domain).id
        else:
            id = tenants.delete(acting(session, SYSTEM), scope.tenant).id
    with database.session(scope) as session:
        assert jobs.claim_next(session, Generation, "worker", 60) is None, "no worker may claim a deleted job"
        assert jobs.claim_next(session, Finetune, "worker", 60) is None
        with pytest.raises(NotFound):
            domains.get(session, domain) if kind == "domain" else tenants.get(session, scope.tenant)
        assert [row.id for row in tenants.page(session, PageRequest()).data if row.id == scope.tenant] == (
            [scope.tenant] if kind == "domain" else []
        )
        if kind == "tenant":
            with pytest.raises(Unauthenticated):
                keys.authenticate(session, key)
        else:
            domains.create(session, "domain", "", "mini")
    assert read(database, id).objects == 0
    for _ in range(2):
        deletions.advance(database, store)
    receipt = read(database, id)
    assert receipt.done_at is not None
    assert (receipt.objects, store.list("")) == (1, [])
    assert {name: receipt.rows[name] for name in ("generations", "generation_images", "generation_previews")} == {
        "generations": 8, "generation_images": 7, "generation_previews": 7
    }  # fmt: skip
    with database.session() as session:
        assert session.execute(select(func.count()).select_from(Generation)).scalar_one() == 0
        assert tenants.get(session, kept.tenant).name == "kept"
