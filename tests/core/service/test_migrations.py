"""The migrations create exactly the tables of the models, can be undone, and survive two concurrent starts."""

import datetime
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, event, inspect, select, text

import core.service.db.models
from core.artifact.sampling import SamplingSettings
from core.service import fleet, idempotency, jobs, tenants
from core.service.db.base import Base
from core.service.db.models import Finetune, Generation
from core.service.db.schema import config, is_current, upgrade
from core.service.db.session import Database
from core.service.tenancy import SYSTEM, Scope
from tests.core.service.rows import BASE, tenant_with_everything

assert core.service.db.models.__all__, "importing the models registers their tables"

ROWS = (
    "INSERT INTO tenants (id, name, weight, quotas) VALUES ('ten_1', 'one', 1, '{}')",
    "INSERT INTO api_keys (id, tenant_id, name, scopes, secret_hash) VALUES ('key_tenant', 'ten_1', 'k', '[]', 'h')",
    "INSERT INTO api_keys (id, name, scopes, secret_hash) VALUES ('key_admin', 'k', '[]', 'h')",
    (
        "INSERT INTO domains (id, tenant_id, name, description, base_model, next_version) "
        "VALUES ('dom_1', 'ten_1', 'one', '', 'mini', 1)"
    ),
    (
        "INSERT INTO generations (id, tenant_id, domain_id, class_id, class_name, count, seed, steps, guidance_scale, "
        "sampler, progress, row_steps, timings, status, priority, attempt, failures, seconds) "
        "VALUES ('gen_1', 'ten_1', 'dom_1', 0, 'cat', 1, 0, 5, 4, 'ddim', 0, 0, '{}', 'queued', 0, 0, 0, 0)"
    ),
    *(
        f"INSERT INTO idempotency_keys (scope, key, request_digest) VALUES ('{scope}', 'k', 'd')"
        for scope in ("key_tenant", "key_admin", "key_gone")
    ),
    "INSERT INTO deletions (id, prefix) VALUES ('del_1', 'tenants/ten_1/domains/dom_0/')",
    "INSERT INTO audit_log (tenant_id, action, target, detail) VALUES ('ten_1', 'domain.create', 'dom_1', '{}')",
)
ROW_COUNTS = {
    "tenants": 1, "api_keys": 2, "domains": 1, "generations": 1, "idempotency_keys": 3, "deletions": 1, "audit_log": 1
}  # fmt: skip
DATASET = (
    "INSERT INTO datasets (id, tenant_id, domain_id, archive_key, archive_sha256, size_bytes, classes, images, "
    "members, report, status, priority, attempt, failures, seconds) "
    "VALUES ('ds_1', 'ten_1', 'dom_1', 'k', 'h', 1, '[]', 0, '[]', '{}', 'ready', 0, 0, 0, 0)"
)
FINETUNE = (
    "INSERT INTO finetunes (id, tenant_id, domain_id, dataset_id, method, sites, steps, batch_size, learning_rate, "
    "seed, auto_promote, step, checkpoint_step, status, priority, attempt, failures, seconds) "
    "VALUES ('{}', 'ten_1', 'dom_1', 'ds_1', 'difffit', '[]', 1, 1, 1, 0, true, 0, 0, 'queued', 0, 0, 0, 0)"
)
EVENT = (
    "INSERT INTO finetune_events (id, tenant_id, finetune_id, type, data) VALUES ({}, 'ten_1', '{}', 'progress', '[]')"
)
REVISIONS = sorted(script.revision for script in ScriptDirectory("migrations").walk_revisions())
STEPS = (
    (command.upgrade, "head"),
    (command.downgrade, "0012"),
    (command.upgrade, "head"),
    (command.downgrade, "0008"),
    (command.upgrade, "head"),
)


def test_upgrade_creates_the_tables_of_the_models(database: Database) -> None:
    with database.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": False})
        assert compare_metadata(context, Base.metadata) == []


def test_is_current_reports_whether_the_tables_exist(empty_database_url: str) -> None:
    database = Database(empty_database_url)
    assert not is_current(database.engine)
    upgrade(empty_database_url)
    assert is_current(database.engine)
    database.dispose()


def test_names_of_constraints_are_those_of_the_models(database: Database) -> None:
    inspector = inspect(database.engine)
    for table in Base.metadata.tables.values():
        expected = {str(constraint.name) for constraint in table.constraints}
        names = {key["name"] for key in inspector.get_foreign_keys(table.name)}
        names |= {key["name"] for key in inspector.get_unique_constraints(table.name)}
        names.add(inspector.get_pk_constraint(table.name)["name"])
        assert names == expected, table.name


def test_created_at_is_filled_by_the_database(database: Database) -> None:
    with database.session() as session:
        session.execute(text("INSERT INTO deletions (id, prefix) VALUES ('del_1', 'a/')"))
        created, now = session.execute(
            core.service.db.models.Deletion.__table__.select().with_only_columns(
                core.service.db.models.Deletion.created_at, core.service.db.base.Now()
            )
        ).one()
    assert created.tzinfo is not None
    assert abs((now - created).total_seconds()) < 5


def test_downgrade_leaves_no_tables(database: Database, database_url: str) -> None:
    command.downgrade(config(database_url), "base")
    assert inspect(database.engine).get_table_names() == ["alembic_version"]
    upgrade(database_url)
    assert "domains" in inspect(database.engine).get_table_names()


def test_migrations_may_take_long_but_do_not_block_the_service(
    empty_database_url: str, request: pytest.FixtureRequest
) -> None:
    """Row locks are an exception: a migration that waits for one makes all other queries of the table wait too."""
    if empty_database_url.startswith("sqlite"):
        pytest.skip("SQLite has no timeouts of statements")
    limits: dict[str, set[tuple[str, ...]]] = {"pg_advisory_xact_lock": set(), "CREATE TABLE": set()}

    def note(_connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        for kind in limits:
            if kind in statement:
                names = ("statement_timeout", "idle_in_transaction_session_timeout", "lock_timeout")
                limits[kind].add(tuple(cursor.execute(f"SHOW {name}").fetchone()[0] for name in names))

    event.listen(Engine, "before_cursor_execute", note)
    request.addfinalizer(lambda: event.remove(Engine, "before_cursor_execute", note))
    upgrade(empty_database_url)
    assert limits == {"pg_advisory_xact_lock": {("0", "0", "0")}, "CREATE TABLE": {("0", "0", "10s")}}


def test_rows_survive_upgrade_and_downgrade(empty_database_url: str) -> None:
    """Counts the rows of the first release's tables after every step, in both directions."""
    command.upgrade(config(empty_database_url), "0008")
    owner = Database(empty_database_url, SYSTEM)
    with owner.session() as session:
        for statement in ROWS:
            session.execute(text(statement))
    for direction, revision in STEPS:
        direction(config(empty_database_url), revision)
        with owner.session() as session:
            counts = {
                table: session.execute(text(f"SELECT count(*) FROM {table}")).scalar_one() for table in ROW_COUNTS
            }
            assert counts == ROW_COUNTS, revision
    owner.dispose()


def test_row_of_every_table_survives_upgrade_and_downgrade(database: Database, database_url: str) -> None:
    """Migrates down from the last tables, one step at a time, and up again. Columns that remain keep their values."""
    tenant_with_everything(database, "tenant")
    with database.session() as session:
        fleet.register_base(session, "mini", BASE)
        fleet.report_worker(session, "wrk_1", "host", 1, {"queues": [], "device": "cpu", "resident": []})
    owner = Database(database_url, SYSTEM)
    first = rows(owner)
    assert set(first) == set(Base.metadata.tables)
    assert all(first.values())
    for revision in REVISIONS[-2::-1]:
        before = rows(owner)
        command.downgrade(config(database_url), revision)
        assert_kept(before, rows(owner), revision)
    for revision in REVISIONS[1:]:
        before = rows(owner)
        command.upgrade(config(database_url), revision)
        assert_kept(before, rows(owner), revision)
    assert is_current(owner.engine)
    owner.dispose()


def test_events_keep_their_ids_and_new_ones_continue(empty_database_url: str) -> None:
    """Before, one counter numbered the events of all fine-tunes; now each has its own. A downgrade gives unique ids."""
    old_ids = {"ft_1": [3, 8], "ft_2": [5]}
    command.upgrade(config(empty_database_url), "0013")
    owner = Database(empty_database_url, SYSTEM)
    with owner.session() as session:
        for statement in (*ROWS[:1], *ROWS[3:4], DATASET, *(FINETUNE.format(id) for id in (*old_ids, "ft_3"))):
            session.execute(text(statement))
        for finetune, ids in old_ids.items():
            for id in ids:
                session.execute(text(EVENT.format(id, finetune)))
    upgrade(empty_database_url)
    with owner.session() as session:
        for finetune in session.execute(select(Finetune).order_by(Finetune.id)).scalars().all():
            jobs.report(session, finetune, "status", {"status": "running"})
    assert event_ids(owner) == {"ft_1": [3, 8, 9], "ft_2": [5, 6], "ft_3": [1]}
    with owner.session() as session:
        session.execute(text("UPDATE finetune_events SET id = 3 WHERE finetune_id = 'ft_2' AND id = 5"))
    owner.dispose()
    command.downgrade(config(empty_database_url), "0013")
    with owner.session() as session:
        session.execute(text(EVENT.replace("id, tenant", "tenant").replace("{}, 'ten", "'ten", 1).format("ft_3")))
    ids = event_ids(owner)
    assert [len(numbers) for numbers in ids.values()] == [3, 2, 2]
    assert len({id for numbers in ids.values() for id in numbers}) == 7
    owner.dispose()


def test_sampling_settings_are_moved_exactly_and_back(empty_database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Includes floats with all digits, and moves them in several steps."""
    monkeypatch.setattr("migrations.gathering.ROWS", 2)
    command.upgrade(config(empty_database_url), "0017")
    owner = Database(empty_database_url, SYSTEM)
    columns = "steps, guidance_scale, guidance_from, guidance_to, sampler, eta"
    stored = {"gen_1": (5, 4.0, 0, 999, "ddim", 0.0)} | {
        f"gen_{number}": (number, number + 0.1 + 0.2, 200, 800, "ddim", 1 / number) for number in range(2, 7)
    }
    with owner.session() as session:
        for statement in ROWS[:5]:
            session.execute(text(statement))
        for id in [*stored][1:]:
            session.execute(text(ROWS[4].replace("gen_1", id)))
        for id, values in stored.items():
            places = ", ".join(f"{name} = :{name}" for name in columns.split(", "))
            session.execute(
                text(f"UPDATE generations SET {places} WHERE id = :id"),
                dict(zip(columns.split(", "), values, strict=True)) | {"id": id},
            )
    upgrade(empty_database_url)
    with owner.session() as session:
        for row in session.execute(select(Generation)).scalars().all():
            steps, scale, lowest, highest, sampler, eta = stored[row.id]
            assert row.sampling == SamplingSettings(
                steps=steps,
                guidance_scale=scale,
                guidance_interval=(lowest, highest),
                sampler=sampler,  # type: ignore[arg-type]
                eta=eta,
            )
    owner.dispose()
    command.downgrade(config(empty_database_url), "0017")
    with owner.session() as session:
        rows = session.execute(text(f"SELECT id, {columns} FROM generations")).all()
    assert {id: tuple(values) for id, *values in rows} == stored
    owner.dispose()


def event_ids(database: Database) -> dict[str, list[int]]:
    with database.session() as session:
        events = session.execute(text("SELECT finetune_id, id FROM finetune_events ORDER BY finetune_id, id")).all()
    return {finetune: [id for owner, id in events if owner == finetune] for finetune, _ in events}


def rows(database: Database) -> dict[str, list[dict[str, Any]]]:
    """Returns all rows by table, over new connections, which have not cached the old tables."""
    database.dispose()
    with database.session() as session:
        names = set(inspect(session.connection()).get_table_names()) - {"alembic_version"}
        read = {name: session.execute(text(f"SELECT * FROM {name}")).mappings().all() for name in names}
        return {name: [dict(row) for row in mappings] for name, mappings in read.items()}


def assert_kept(before: dict[str, list[dict[str, Any]]], after: dict[str, list[dict[str, Any]]], where: str) -> None:
    for table in before.keys() & after.keys():
        columns = [set(stored[0]) for stored in (before[table], after[table]) if stored]
        shared = sorted(set.intersection(*columns)) if columns else []
        values = [sorted(str([row[column] for column in shared]) for row in state[table]) for state in (before, after)]
        assert values[0] == values[1], f"{table} at {where}"


def test_keys_get_the_lifetime_that_their_expiry_shows(empty_database_url: str) -> None:
    command.upgrade(config(empty_database_url), "0033")
    owner = Database(empty_database_url, SYSTEM)
    created = datetime.datetime(2026, 1, 31, 12, tzinfo=datetime.UTC)
    seconds = {"key_endless": None, "key_month": 30 * 86_400, "key_ended": 0}
    table = Base.metadata.tables["api_keys"]
    with owner.session() as session:
        for id, lifetime in seconds.items():
            expires_at = None if lifetime is None else created + datetime.timedelta(seconds=lifetime)
            values = {"id": id, "name": "key", "scopes": ["admin"], "secret_hash": "", "created_at": created}
            session.execute(table.insert().values(values | {"expires_at": expires_at}))
    upgrade(empty_database_url)
    with owner.session() as session:
        stored = dict(session.execute(select(table.c.id, table.c.lifetime_seconds)).all())
    owner.dispose()
    assert stored == seconds | {"key_ended": 1}


def test_stored_responses_are_deleted_with_their_tenant(database: Database) -> None:
    with database.session() as session:
        tenant = tenants.create(session, "tenant").id
    for scope in (Scope(tenant, "key_1"), Scope(None, "key_2")):
        with database.session(scope) as session:
            idempotency.begin(session, "k", "d")
    with database.session() as session:
        tenants.delete(session, tenant)
    with database.session() as session:
        assert session.execute(text("SELECT scope FROM idempotency_keys")).scalars().all() == ["key_2"]


@pytest.mark.parametrize("processes", [2])
def test_processes_that_start_together_migrate_once(empty_database_url: str, processes: int) -> None:
    with ThreadPoolExecutor(processes) as pool:
        runs = [pool.submit(_upgrade_in_a_process, empty_database_url) for _ in range(processes)]
        for run in runs:
            assert run.result() == 0
    database = Database(empty_database_url)
    with database.session() as session:
        assert session.execute(text("SELECT count(*) FROM alembic_version")).scalar_one() == 1
    database.dispose()


def _upgrade_in_a_process(url: str) -> int:
    environment = {**os.environ, "DIFFFIT_DATABASE_URL": url}
    return subprocess.run([sys.executable, "-m", "migrations"], env=environment, check=False).returncode
