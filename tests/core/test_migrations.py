"""The migrations make exactly the tables of the models, go back, and survive two starts at once."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import inspect, text

import core.db.models
from core.db.base import Base
from core.db.schema import config, is_current, upgrade
from core.db.session import Database

assert core.db.models.__all__, "importing the models registers their tables"


def test_up_makes_the_tables_of_the_models(database: Database) -> None:
    with database.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": False})
        assert compare_metadata(context, Base.metadata) == []


def test_is_current_tells_whether_the_tables_are_there(empty_database_url: str) -> None:
    database = Database(empty_database_url)
    assert not is_current(database.engine)
    upgrade(empty_database_url)
    assert is_current(database.engine)
    database.dispose()


def test_names_of_constraints_are_those_of_the_models(database: Database) -> None:
    inspector = inspect(database.engine)
    for table in Base.metadata.tables.values():
        expected = {str(constraint.name) for constraint in table.constraints}
        found = {key["name"] for key in inspector.get_foreign_keys(table.name)}
        found |= {key["name"] for key in inspector.get_unique_constraints(table.name)}
        found.add(inspector.get_pk_constraint(table.name)["name"])
        assert found == expected, table.name


def test_created_at_is_filled_by_the_database(database: Database) -> None:
    with database.session() as session:
        session.execute(text("INSERT INTO deletions (id, prefix) VALUES ('del_1', 'a/')"))
        created, now = session.execute(
            core.db.models.Deletion.__table__.select().with_only_columns(
                core.db.models.Deletion.created_at, core.db.base.Now()
            )
        ).one()
    assert created.tzinfo is not None
    assert abs((now - created).total_seconds()) < 5


def test_down_leaves_nothing(database: Database, empty_database_url: str) -> None:
    command.downgrade(config(empty_database_url), "base")
    assert inspect(database.engine).get_table_names() == ["alembic_version"]
    upgrade(empty_database_url)
    assert "domains" in inspect(database.engine).get_table_names()


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
