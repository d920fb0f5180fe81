"""Concurrent changes that must not undo each other."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import select, text
from sqlalchemy.orm import Session

from core.artifact.errors import NotFound
from core.service import adapters, deletions, domains, fleet, generations, images, jobs, keys, metering, tenants
from core.service.config import Settings
from core.service.datasets import removal, versions
from core.service.db.lookup import find
from core.service.db.models import (
    Adapter,
    ApiKey,
    Dataset,
    Deletion,
    Domain,
    Finetune,
    Generation,
    GenerationImage,
    StoredBytes,
    Tenant,
)
from core.service.db.session import Database
from core.service.errors import DomainInUse, JobFinished, NameTaken
from core.service.finetunes import service as finetunes
from core.service.storage.errors import StorageUnavailable
from core.service.tenancy import SYSTEM, Scope
from tests.core.service.rows import (
    BASE,
    Sent,
    acting,
    add_adapter,
    add_dataset,
    add_finetune,
    add_generation,
    claim,
    tenant_with_domain,
)

MODELS: dict[str, Any] = {
    "adapter": Adapter,
    "dataset": Dataset,
    "finetune": Finetune,
    "generation": Generation,
    "domain": Domain,
    "tenant": Tenant,
}


def test_late_cancel_does_not_undo_a_success(database: Database) -> None:
    skip_sqlite(database)
    scope, domain_id = tenant_with_domain(database)
    with database.session() as session:
        id = add_generation(session, scope, domain_id).id
    claimed = claim(database)

    def cancel() -> None:
        with database.session(scope) as session:
            generations.cancel(session, id)

    with ThreadPoolExecutor(1) as pool:
        with database.session() as session:
            job = jobs.guarded(session, Generation, claimed)
            assert job is not None
            jobs.finish(session, job, "succeeded")
            session.flush()
            late = pool.submit(cancel)
            wait_for_waiting(database, 1)
        with pytest.raises(JobFinished):
            late.result()
    with database.session() as session:
        ended = session.get_one(Generation, id)
        assert (ended.status, ended.cancel_requested_at) == ("succeeded", None)


@pytest.mark.parametrize("noun", ["generation", "finetune", "adapter", "key", "renamed key", "tenant"])
def test_row_that_another_transaction_deletes_is_not_found(database: Database, noun: str) -> None:
    skip_sqlite(database)
    scope, domain_id = tenant_with_domain(database)
    with database.session() as session:
        finetune = add_finetune(session, scope, domain_id)
        generation = add_generation(session, scope, domain_id).id
        adapter = add_adapter(session, scope, domain_id, 1).id
        key = keys.issue(session, scope.tenant, "key").row.id
    change: dict[str, Callable[[Session], object]] = {
        "generation": lambda session: generations.cancel(session, generation),
        "finetune": lambda session: finetunes.cancel(session, finetune),
        "adapter": lambda session: adapters.quarantine(session, adapter),
        "key": lambda session: keys.revoke(session, key),
        "renamed key": lambda session: keys.change(session, key, {"name": "renamed"}),
        "tenant": lambda session: tenants.change(session, scope.tenant, {"weight": 2.0}),
    }

    def run() -> None:
        with database.session() as session:
            change[noun](session)

    with ThreadPoolExecutor(1) as pool:
        with database.session() as session:
            tenants.delete(session, scope.tenant)
            session.flush()
            late = pool.submit(run)
            wait_for_waiting(database, 1)
        if noun == "adapter":
            late.result()
        else:
            with pytest.raises(NotFound):
                late.result()


@pytest.mark.parametrize("way", ["issue", "rotate"])
def test_key_is_not_created_for_a_tenant_that_is_being_deleted(
    database: Database, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    skip_sqlite(database)
    monkeypatch.setattr(deletions, "_ROWS", 0)  # leaves the tenant's row to workers
    scope, _ = tenant_with_domain(database)
    with database.session() as session:
        key = keys.issue(session, scope.tenant, "key").row.id

    def run() -> None:
        with database.session() as session:
            keys.issue(session, scope.tenant, "new") if way == "issue" else keys.rotate(session, key, 60, {})

    with ThreadPoolExecutor(1) as pool:
        with database.session() as session:
            tenants.get(session, scope.tenant, lock=True)
            late = pool.submit(run)
            wait_for_waiting(database, 1)
            tenants.delete(session, scope.tenant)
        with pytest.raises(NotFound):
            late.result()
    with database.session() as session:
        assert session.scalars(select(ApiKey)).all() == []


@pytest.mark.parametrize("configured", [None, "x" * 40])
def test_processes_that_start_together_make_one_administrators_key(database: Database, configured: str | None) -> None:
    skip_sqlite(database)

    def ensure() -> str | None:
        with database.session() as session:
            return keys.ensure_admin_key(session, configured)

    with ThreadPoolExecutor(1) as pool:
        with database.session() as session:
            created = keys.ensure_admin_key(session, configured)
            session.flush()
            late = pool.submit(ensure)
            wait_for_waiting(database, 1)
        assert late.result() is None
    assert (created is None) == (configured is not None)
    with database.session() as session:
        assert len(session.scalars(select(ApiKey)).all()) == 1


@pytest.mark.parametrize("noun", ["adapter", "dataset", "finetune", "generation", "domain", "tenant"])
def test_only_one_of_many_deletions_counts(database: Database, noun: str) -> None:
    skip_sqlite(database)
    scope, domain_id = tenant_with_domain(database)
    with database.session() as session:
        metering.add_stored_bytes(session, domain_id, 1000)
        finetune = add_finetune(session, scope, domain_id, status="succeeded", checkpoint_bytes=50)
        generation = add_generation(session, scope, domain_id, status="succeeded").id
        size = {"size_bytes": 50, "width": 8, "height": 8, "sha256": "0" * 64, "object_key": "k"}
        session.add(
            GenerationImage(
                generation_id=generation, index=0, tenant_id=scope.tenant, domain_id=domain_id, seed=0, **size
            )
        )
        ids = {
            "adapter": add_adapter(
                session, scope, domain_id, 1, object_key=f"{domains.folder(scope.tenant, domain_id)}a"
            ).id,
            "dataset": add_dataset(session, scope, domain_id, archive_key="own", size_bytes=50).id,
            "finetune": finetune,
            "generation": generation,
            "domain": domain_id,
            "tenant": scope.tenant,
        }
    delete: dict[str, Callable[[Session, str], Deletion]] = {
        "adapter": adapters.delete,
        "dataset": removal.delete,
        "finetune": finetunes.delete,
        "generation": images.delete_generation,
        "domain": domains.delete,
        "tenant": tenants.delete,
    }

    def run(_: int) -> str:
        try:
            with database.session(SYSTEM if noun == "tenant" else scope) as session:
                delete[noun](session, ids[noun])
        except NotFound:
            return "not found"
        return "deleted"

    with ThreadPoolExecutor(4) as pool:
        with database.session() as session:
            for model, id in ((Tenant, scope.tenant), (Domain, domain_id), (MODELS[noun], ids[noun])):
                find(session, model, id, lock=True)
            deletions = [pool.submit(run, number) for number in range(4)]
            wait_for_waiting(database, 4)
        assert sorted(deletion.result() for deletion in deletions) == ["deleted"] + ["not found"] * 3
    with database.session() as session:
        assert session.scalars(select(Deletion.target)).all() == [ids[noun]]
        assert session.scalar(select(StoredBytes.bytes)) == (None if noun in ("domain", "tenant") else 950)


@pytest.mark.parametrize("way", ["requeue", "requeue_later"])
def test_cancelled_row_ends_when_it_is_requeued(database: Database, way: str) -> None:
    """No worker claims a job with a cancel request, so that it would wait for ever."""
    scope, domain_id = tenant_with_domain(database)
    with database.session() as session:
        id = add_generation(session, scope, domain_id).id
    claimed = claim(database)
    with database.session() as session:
        jobs.request_cancel(session, session.get_one(Generation, id))
    with database.session() as session:
        job = jobs.guarded(session, Generation, claimed)
        assert job is not None
        if way == "requeue":
            jobs.requeue(session, Sent(), job)
        else:
            jobs.requeue_later(session, job, StorageUnavailable("refused"))
    with database.session() as session:
        assert session.get_one(Generation, id).status == "cancelled"


@pytest.mark.parametrize("noun", ["domain", "tenant"])
def test_only_one_of_many_domains_gets_the_name(database: Database, noun: str) -> None:
    scope, _ = tenant_with_domain(database)
    start = threading.Barrier(6)

    def create(_: int) -> str:
        start.wait()
        try:
            with database.session() as session:
                _create(noun, session, scope)
        except NameTaken:
            return "taken"
        return "mine"

    with ThreadPoolExecutor(6) as pool:
        assert sorted(pool.map(create, range(6))) == ["mine"] + ["taken"] * 5


def test_workers_that_start_together_register_one_base(database: Database) -> None:
    start = threading.Barrier(4)

    def register(_: int) -> None:
        start.wait()
        with database.session() as session:
            fleet.register_base(session, "mini", BASE)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(register, range(4)))
    with database.session() as session:
        assert fleet.served_base(session, "mini") == BASE


def skip_sqlite(database: Database) -> None:
    if database.engine.dialect.name == "sqlite":
        pytest.skip("SQLite lets one transaction at a time in: they cannot meet")


def test_domain_is_not_deleted_while_a_copy_of_its_dataset_is_created(database: Database) -> None:
    skip_sqlite(database)
    scope, original = tenant_with_domain(database)
    resources = SimpleNamespace(settings=Settings(_env_file=None), dispatcher=Sent())  # type: ignore[call-arg]
    members = [{"file": f"{n}.png", "class_id": 0, "sha256": str(n) * 64} for n in range(2)]
    with database.session() as session:
        target = domains.create(acting(session, scope), "target", "", "mini").id
        dataset = add_dataset(session, scope, original, members=members).id

    def delete() -> None:
        with database.session(scope) as session:
            domains.delete(session, original)

    with ThreadPoolExecutor(1) as pool:
        with database.session(scope) as session:
            versions.copy(session, resources, target, dataset)  # type: ignore[arg-type]
            late = pool.submit(delete)
            wait_for_waiting(database, 1)
        with pytest.raises(DomainInUse):
            late.result()


def wait_for_waiting(database: Database, count: int) -> None:
    """Waits until so many transactions wait for a lock of another one."""
    waiting = text("SELECT count(DISTINCT pid) FROM pg_locks WHERE NOT granted")
    deadline = time.monotonic() + 60
    with database.engine.connect() as connection:
        while connection.execute(waiting).scalar_one() < count:
            assert time.monotonic() < deadline, "they do not wait"
            time.sleep(0.01)


def _create(noun: str, session: Session, scope: Scope) -> None:
    if noun == "domain":
        domains.create(acting(session, scope), "same", "", "mini")
    else:
        tenants.create(acting(session, SYSTEM), "same")
