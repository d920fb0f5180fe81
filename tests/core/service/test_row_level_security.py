"""Row-level security in PostgreSQL, tested by raw SQL with the service's roles."""

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
import pytest
from psycopg import Connection
from psycopg.errors import InsufficientPrivilege
from psycopg.rows import DictRow, dict_row
from psycopg.types.json import Jsonb
from sqlalchemy import text

from core.artifact.errors import NotFound
from core.service import domains
from core.service.db.base import Base
from core.service.db.paging import PageRequest
from core.service.db.roles import check_role
from core.service.db.session import Database
from core.service.errors import DatabaseRoleUnfit
from core.service.tenancy import SYSTEM, Scope
from tests import services
from tests.core.service.rows import acting, tenant_with_domain, tenant_with_everything

OWNED = {table.name for table in Base.metadata.sorted_tables} - {"base_models", "workers"}
WITH_TENANT = {name for name in OWNED if "tenant_id" in Base.metadata.tables[name].columns} - {"api_keys"}
ROLES = (services.API, services.WORKER, services.OWNER)


@pytest.fixture(scope="module")
def url(postgres_server: services.Postgres) -> Iterator[str]:
    """Yields the database URL of the owner."""
    yield postgres_server.create_migrated("row_level_security")
    postgres_server.drop("row_level_security")


@pytest.fixture(scope="module")
def database(url: str) -> Iterator[Database]:
    """Yields the database as the worker's role."""
    database = Database(services.as_role(url, services.WORKER), SYSTEM)
    yield database
    database.dispose()


@pytest.fixture(scope="module")
def owner(database: Database) -> Scope:
    return tenant_with_everything(database, "owner")


@pytest.fixture(scope="module")
def stranger(database: Database, owner: Scope) -> Scope:
    return tenant_with_domain(database, "stranger")[0]


@contextmanager
def asking(url: str, role: str, tenant: str | None = None) -> Iterator[Connection[DictRow]]:
    """Opens a transaction as a role, with the tenant set or without one."""
    with psycopg.connect(services.as_role(url, role), row_factory=dict_row) as connection:
        if tenant is not None:
            connection.execute("SELECT set_config('difffit.tenant', %s, true)", [tenant])
        yield connection
        connection.rollback()


def count(connection: Connection[DictRow], table: str) -> int:
    (row,) = connection.execute(f"SELECT count(*) AS rows FROM {table}".encode()).fetchall()
    return int(row["rows"])


def test_tables_are_protected_from_their_owner_too(url: str) -> None:
    with asking(url, services.OWNER) as connection:
        statement = "SELECT relname FROM pg_class WHERE relrowsecurity AND relforcerowsecurity"
        assert {row["relname"] for row in connection.execute(statement)} == OWNED


@pytest.mark.parametrize("role", ROLES)
def test_transaction_without_a_tenant_sees_nothing(url: str, owner: Scope, role: str) -> None:
    with asking(url, role) as connection:
        assert {table: count(connection, table) for table in OWNED} == dict.fromkeys(OWNED, 0)
    with asking(url, role, "") as connection:
        assert {table: count(connection, table) for table in OWNED} == dict.fromkeys(OWNED, 0)


@pytest.mark.parametrize("role", ROLES)
def test_other_tenants_see_nothing_and_workers_see_everything(
    url: str, owner: Scope, stranger: Scope, role: str
) -> None:
    with asking(url, role, stranger.tenant) as connection:
        for table in WITH_TENANT:
            query = f"SELECT 1 FROM {table} WHERE tenant_id = %s".encode()
            assert connection.execute(query, [owner.tenant]).fetchall() == [], table
        assert [row["id"] for row in connection.execute("SELECT id FROM tenants")] == [stranger.tenant]
        assert count(connection, "deletions") == 0
        assert count(connection, "api_keys") == 0
    with asking(url, role, owner.tenant) as connection:
        assert all(count(connection, table) > 0 for table in OWNED - {"api_keys"})
        assert count(connection, "api_keys") == 0, "not even its own deletions, which no route shows to a tenant"
    with asking(url, role, "*") as connection:
        assert all(count(connection, table) > 0 for table in OWNED)
        assert count(connection, "tenants") == 2


def test_rows_of_another_tenant_cannot_be_written_or_given_away(url: str, owner: Scope, stranger: Scope) -> None:
    with asking(url, services.API, stranger.tenant) as connection:
        for table in WITH_TENANT - {"audit_log"}:
            changed = connection.execute(f"UPDATE {table} SET tenant_id = tenant_id".encode())
            assert changed.rowcount == (1 if table in {"domains", "stored_bytes"} else 0), table
            removed = connection.execute(f"DELETE FROM {table} WHERE tenant_id = %s".encode(), [owner.tenant])
            assert removed.rowcount == 0, table
        assert connection.execute("UPDATE tenants SET weight = 100").rowcount == 0
    for table in WITH_TENANT:
        copy = f"INSERT INTO {table} SELECT * FROM jsonb_populate_record(NULL::{table}, %s)".encode()
        with asking(url, services.API, "*") as connection:
            stored = connection.execute(f"SELECT to_jsonb({table}) AS row FROM {table}".encode()).fetchone()
        assert stored is not None
        row = Jsonb(stored["row"] | {"tenant_id": owner.tenant})
        with asking(url, services.API, stranger.tenant) as connection, refused("row-level security"):
            connection.execute(copy, [row])
    hand_over = "UPDATE domains SET tenant_id = %s"
    with asking(url, services.API, stranger.tenant) as connection, refused("row-level security"):
        connection.execute(hand_over, [owner.tenant])
    for statement in (
        "INSERT INTO tenants (id, name, weight, quotas) VALUES ('ten_x', 'x', 1, '{}')",
        "INSERT INTO api_keys (id, name, scopes, secret_hash) VALUES ('key_x', 'x', '[\"admin\"]', '')",
        f"INSERT INTO deletions (id, prefix) VALUES ('del_x', 'tenants/{owner.tenant}/')",
        "INSERT INTO deletions (id, prefix) VALUES ('del_x', 'tenants/')",
    ):
        with asking(url, services.API, stranger.tenant) as connection, refused("row-level security"):
            connection.execute(statement.encode())


def test_query_without_the_filter_sees_only_the_tenants_rows(url: str, owner: Scope, stranger: Scope) -> None:
    database = Database(services.as_role(url, services.API))
    with database.session(SYSTEM) as session:
        theirs = domains.page(acting(session, owner), PageRequest()).data[0].id
    with database.session(stranger) as session, pytest.raises(NotFound):
        domains.get(acting(session, SYSTEM), theirs)
    with database.session() as session, pytest.raises(NotFound):
        domains.get(acting(session, owner), theirs)
    database.dispose()


def test_connection_forgets_the_tenant_after_a_transaction(url: str, owner: Scope) -> None:
    database = Database(services.as_role(url, services.API))
    seen = []

    def look(scope: Scope | None) -> None:
        with database.session(scope) as session:
            seen.append(session.execute(text("SELECT pg_backend_pid(), count(*) > 0 FROM domains")).one())

    look(SYSTEM)
    look(None)
    with pytest.raises(ZeroDivisionError), database.session(SYSTEM):
        _ = 1 / 0
    look(None)
    database.dispose()
    assert [sees for _, sees in seen] == [True, False, False]
    assert len({pid for pid, _ in seen}) == 1, "both transactions must use the same connection of the pool"


def test_key_is_found_only_by_its_id(url: str, owner: Scope) -> None:
    for role in ROLES:
        with asking(url, role) as connection:
            keys = connection.execute("SELECT id, tenant_id FROM api_key_by_id(%s)", [owner.key_id]).fetchall()
            assert keys == [{"id": owner.key_id, "tenant_id": owner.tenant}]
            assert connection.execute("SELECT * FROM api_key_by_id('%')").fetchall() == []
            connection.execute("SELECT note_api_key_use(%s)", [owner.key_id])
            assert count(connection, "api_keys") == 0, "the look-up must leave no transaction open"
            connection.execute("SELECT set_config('difffit.tenant', '*', true)")
            (key,) = connection.execute("SELECT last_used_at FROM api_keys").fetchall()
            assert key["last_used_at"] is not None
    with asking(url, services.OWNER) as connection:  # a role without privileges on these tables
        statement = "SELECT has_function_privilege('pg_monitor', 'api_key_by_id(text)', 'EXECUTE') AS may"
        assert connection.execute(statement).fetchall() == [{"may": False}]


def test_temporary_table_does_not_shadow_the_keys(url: str, owner: Scope) -> None:
    with asking(url, services.API) as connection:
        connection.execute("CREATE TEMPORARY TABLE api_keys AS SELECT 'key_x' AS id")
        assert connection.execute("SELECT id FROM api_key_by_id('key_x')").fetchall() == []
        assert len(connection.execute("SELECT id FROM api_key_by_id(%s)", [owner.key_id]).fetchall()) == 1


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize(
    "statement", ["UPDATE audit_log SET action = ''", "DELETE FROM audit_log", "TRUNCATE audit_log"]
)
def test_audit_log_is_append_only(url: str, owner: Scope, role: str, statement: str) -> None:
    with asking(url, role, "*") as connection:
        before = count(connection, "audit_log")
        with refused(), connection.transaction():
            connection.execute(statement.encode())
        connection.execute("INSERT INTO audit_log (action, target, detail) VALUES ('a', 'b', '{}')")
        assert count(connection, "audit_log") == before + 1


@pytest.mark.parametrize("role", [services.API, services.WORKER])
@pytest.mark.parametrize(
    "statement",
    ["CREATE TABLE mine (id text)", "ALTER TABLE domains DISABLE ROW LEVEL SECURITY", "DROP POLICY tenant ON domains",
     "ALTER TABLE audit_log DISABLE TRIGGER append_only", "TRUNCATE domains CASCADE", "SET ROLE difffit_owner",
     "SET session_replication_role = replica", "CREATE ROLE mine", "DROP FUNCTION api_key_by_id"],
)  # fmt: skip
def test_plain_roles_cannot_disable_row_level_security(url: str, role: str, statement: str) -> None:
    with asking(url, role, "*") as connection, refused():
        connection.execute(statement.encode())


@pytest.mark.parametrize(
    ("attribute", "sentence"),
    [("SUPERUSER", "is a superuser"), ("BYPASSRLS", "has BYPASSRLS"), ("NOSUPERUSER", "may not use the tables")],
)
def test_unsuitable_role_is_rejected(
    url: str, postgres_server: services.Postgres, attribute: str, sentence: str
) -> None:
    postgres_server.execute(f"CREATE ROLE mighty LOGIN {attribute}")
    database = Database(services.as_role(url, "mighty"))
    try:
        with pytest.raises(DatabaseRoleUnfit, match=sentence):
            check_role(database.engine)
    finally:
        database.dispose()
        postgres_server.execute("DROP ROLE mighty")
    for role in ROLES:
        database = Database(services.as_role(url, role))
        check_role(database.engine)
        database.dispose()


@contextmanager
def refused(reason: str | None = None) -> Iterator[None]:
    with pytest.raises(InsufficientPrivilege, match=reason):
        yield
