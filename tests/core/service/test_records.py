"""Idempotency, usage, pagination and times, each on both databases."""

import datetime
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import func, select
from sqlalchemy.exc import DBAPIError

from core.service import idempotency, metering, tenants
from core.service.config import Settings
from core.service.db.base import new_id
from core.service.db.models import IdempotencyKey, Tenant
from core.service.db.paging import PageRequest
from core.service.db.session import Database, database_now
from core.service.errors import DatabaseUnavailable, IdempotencyConflict, IdempotencyMismatch, InvalidCursor
from core.service.idempotency import Answer
from core.service.tenancy import SYSTEM, Scope
from tests.core.service.rows import acting, tenant_with_domain

CALLER, ANOTHER = (Scope(tenant_id=None, key_id=id) for id in ("key", "another key"))


def begin(database: Database, scope: Scope, key: str, digest: str) -> Answer | None:
    """Reserves the key in a separate transaction, like a request."""
    with database.session(scope) as session:
        return idempotency.begin(session, key, digest)


def test_first_response_is_replayed(database: Database) -> None:
    assert begin(database, CALLER, "k", "digest") is None
    with pytest.raises(IdempotencyConflict):
        begin(database, CALLER, "k", "digest")
    with pytest.raises(IdempotencyMismatch):
        begin(database, CALLER, "k", "other")
    assert begin(database, ANOTHER, "k", "other") is None
    with database.session(CALLER) as session:
        idempotency.complete(session, "k", Answer(201, {"id": "x"}))
    assert begin(database, CALLER, "k", "digest") == Answer(201, {"id": "x"})


def test_failed_request_frees_its_key_and_old_reservations_expire(database: Database) -> None:
    begin(database, CALLER, "failed", "digest")
    with database.session(CALLER) as session:
        idempotency.abandon(session, "failed")
    assert begin(database, CALLER, "failed", "other") is None
    begin(database, CALLER, "lost", "digest")
    with database.session() as session:
        session.get_one(IdempotencyKey, ("key", "lost")).created_at -= datetime.timedelta(minutes=10)
    assert begin(database, CALLER, "lost", "digest") is None


def test_only_one_of_many_requests_gets_the_key(database: Database) -> None:
    def attempt(_: int) -> str:
        try:
            begin(database, CALLER, "k", "digest")
        except IdempotencyConflict:
            return "conflict"
        return "mine"

    with ThreadPoolExecutor(8) as pool:
        assert sorted(pool.map(attempt, range(8))) == ["conflict"] * 7 + ["mine"]


def test_concurrent_workers_add_up_usage(database: Database) -> None:
    scope, _ = tenant_with_domain(database)

    def meter(_: int) -> None:
        with database.session() as session:
            metering.meter(session, scope.tenant, images=1, model_evaluations=10)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(meter, range(40)))
    with database.session(scope) as session:
        used = metering.usage(session, Settings(_env_file=None))
    assert (used.images, used.model_evaluations) == (40, 400)


def test_pages_stay_consistent_while_rows_are_added(database: Database) -> None:
    with database.session() as session:
        ids = sorted((tenants.create(session, f"t{i}").id for i in range(5)), reverse=True)
        page = tenants.page(session, PageRequest(limit=2))
        seen = [row.id for row in page.data]
        session.add(Tenant(id=new_id("ten"), name="newer", weight=1.0, quotas={}))
        session.flush()
        while page.next_cursor:
            page = tenants.page(session, PageRequest(limit=2, cursor=page.next_cursor))
            seen += [row.id for row in page.data]
    assert seen == ids


@pytest.mark.parametrize("cursor", ["%", "====", "\u00e9", "", "a b", "a\n", "a" * 65])
def test_foreign_cursor_is_rejected(database: Database, cursor: str) -> None:
    with pytest.raises(InvalidCursor), database.session() as session:
        tenants.page(session, PageRequest(cursor=cursor))


def test_times_have_a_zone_and_come_from_the_database(database: Database) -> None:
    with database.session() as session:
        now = database_now(session)
        assert now.tzinfo is datetime.UTC
        assert abs(now - datetime.datetime.now(datetime.UTC)) < datetime.timedelta(seconds=5)
        zone = datetime.timezone(datetime.timedelta(hours=9))
        session.add(IdempotencyKey(scope="s", key="k", request_digest="d", created_at=now.astimezone(zone)))
    with database.session() as session:
        assert session.get_one(IdempotencyKey, ("s", "k")).created_at == now


def test_reading_sessions_change_nothing(database: Database) -> None:
    """The next session of the same connection can write."""
    with pytest.raises(DBAPIError, match=r"readonly|read-only"), database.reading(SYSTEM) as session:
        tenants.create(acting(session, SYSTEM), "tenant")
    with database.session(SYSTEM) as session:
        assert session.query(Tenant).all() == []
        tenants.create(acting(session, SYSTEM), "tenant")
    with database.reading(SYSTEM) as session:
        assert [tenant.name for tenant in session.query(Tenant)] == ["tenant"]


def test_queries_do_not_wait_for_a_transaction_that_writes(database: Database) -> None:
    with database.session(SYSTEM) as session:
        tenants.create(acting(session, SYSTEM), "tenant")
        session.flush()
        started = time.monotonic()
        with database.reading(SYSTEM) as reader, database.statements() as alone:
            assert reader.query(Tenant).all() == []
            assert alone.connection().execute(select(func.count()).select_from(Tenant)).scalar_one() == 0
        assert time.monotonic() - started < 10, "SQLite waits 30 s for a lock"


def test_unreachable_database_raises_database_unavailable() -> None:
    database = Database("postgresql://nobody@127.0.0.1:1/none")
    with pytest.raises(DatabaseUnavailable), database.session() as session:
        database_now(session)
    database.dispose()
