"""Concurrent changes that must not undo each other."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy.orm import Session

from core.service import domains, fleet, jobs, tenants
from core.service.db.models import Generation
from core.service.db.session import Database
from core.service.errors import NameTaken
from core.service.storage.errors import StorageUnavailable
from core.service.tenancy import SYSTEM, Scope
from tests.core.service.rows import BASE, Sent, acting, add_generation, claim, tenant_with_domain


def test_late_cancel_does_not_undo_a_success(database: Database) -> None:
    if database.engine.dialect.name == "sqlite":
        pytest.skip("SQLite lets one transaction at a time in: the two cannot meet")
    scope, domain_id = tenant_with_domain(database)
    with database.session() as session:
        id = add_generation(session, scope, domain_id).id
    claimed = claim(database)
    seen, ended = threading.Event(), threading.Event()

    def cancel() -> None:
        with database.session() as session:
            job = session.get_one(Generation, id)
            seen.set()
            ended.wait(10)
            assert not jobs.request_cancel(session, job)

    with ThreadPoolExecutor(1) as pool:
        late = pool.submit(cancel)
        seen.wait(10)
        with database.session() as session:
            job = jobs.guarded(session, Generation, claimed)
            assert job is not None
            jobs.finish(session, job, "succeeded")
        ended.set()
        late.result()
    with database.session() as session:
        assert session.get_one(Generation, id).status == "succeeded"


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


def _create(noun: str, session: Session, scope: Scope) -> None:
    if noun == "domain":
        domains.create(acting(session, scope), "same", "", "mini")
    else:
        tenants.create(acting(session, SYSTEM), "same")
