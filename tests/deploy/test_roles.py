"""Script that creates PostgreSQL's roles, run by psql as an operator runs it."""

from collections.abc import Iterator

import psycopg
import pytest

from core.service import domains, keys, tenants
from core.service.db.roles import check_role
from core.service.db.schema import is_current, upgrade
from core.service.db.session import Database
from core.service.tenancy import SYSTEM
from tests import services
from tests.core.service.rows import acting, tenant_with_domain

NAME = "older"


@pytest.fixture
def older(postgres_server: services.Postgres) -> Iterator[services.Postgres]:
    """Yields a server with an older database, created and filled by a single role before there were three."""
    postgres_server.execute("CREATE ROLE only_one LOGIN")
    postgres_server.execute(f"CREATE DATABASE {NAME} OWNER only_one")
    upgrade(url_of(postgres_server, "only_one"))
    yield postgres_server
    postgres_server.drop(NAME)
    postgres_server.execute("DROP ROLE only_one")


def url_of(server: services.Postgres, role: str) -> str:
    return services.as_role(server.url(NAME), role)


def test_one_role_is_enough_and_three_can_follow(older: services.Postgres) -> None:
    database = Database(url_of(older, "only_one"))
    with database.session(SYSTEM) as session:
        token = keys.issue(acting(session, SYSTEM), tenants.create(acting(session, SYSTEM), "tenant").id, "key").key
    with database.session() as session:
        assert keys.authenticate(session, token).tenant_id is not None
    database.dispose()

    for _ in range(2):
        older.make_roles(NAME)
    upgrade(url_of(older, services.OWNER))
    for role in (services.API, services.WORKER):
        database = Database(url_of(older, role), SYSTEM)
        check_role(database.engine)
        assert is_current(database.engine)
        scope, domain = tenant_with_domain(database, role)
        with database.session(scope) as session:
            domains.delete(acting(session, scope), domain)
        database.dispose()
    api = Database(url_of(older, services.API))
    with api.session() as session:
        assert keys.authenticate(session, token).scopes == {"read", "write"}
    api.dispose()


@pytest.mark.parametrize("roles_come", ["first", "last"])
def test_plain_roles_only_read_what_others_report(postgres_server: services.Postgres, roles_come: str) -> None:
    """Runs the script before or after the migration: default privileges let the roles write every table created
    later."""
    postgres_server.execute(f"CREATE DATABASE {NAME} OWNER {services.OWNER}")
    try:
        if roles_come == "first":
            postgres_server.make_roles(NAME)
        upgrade(url_of(postgres_server, services.OWNER))
        if roles_come == "last":
            postgres_server.make_roles(NAME)
        assert written_by(postgres_server, services.API).isdisjoint({"alembic_version", "base_models", "workers"})
        assert written_by(postgres_server, services.WORKER) - written_by(postgres_server, services.API) == {
            "base_models", "workers"
        }  # fmt: skip
        assert {"domains", "audit_log", "tenants"} < written_by(postgres_server, services.API)
    finally:
        postgres_server.drop(NAME)


def written_by(server: services.Postgres, role: str) -> set[str]:
    """Returns the tables that a role may write in any way."""
    statement = """
        SELECT tablename FROM pg_tables, unnest('{INSERT,UPDATE,DELETE,TRUNCATE}'::text[]) AS privilege
        WHERE schemaname = 'public' AND has_table_privilege(%s, format('public.%%I', tablename), privilege)
    """
    with psycopg.connect(server.uri_of(NAME)) as connection:
        return {name for (name,) in connection.execute(statement, [role])}


def test_passwords_are_set_and_kept(older: services.Postgres) -> None:
    given = {"OWNER_PASSWORD": "one'\"", "API_PASSWORD": "two", "WORKER_PASSWORD": "three"}
    older.make_roles(NAME, **given)
    older.make_roles(NAME)
    with psycopg.connect(older.uri) as connection:
        roles = [services.OWNER, services.API, services.WORKER]
        statement = "SELECT rolpassword LIKE 'SCRAM-SHA-256$%%' FROM pg_authid WHERE rolname = ANY(%s)"
        assert connection.execute(statement, [roles]).fetchall() == [(True,)] * 3


def test_role_that_may_create_roles_is_enough(older: services.Postgres) -> None:
    """Covers managed servers, which give no superuser rights."""
    older.execute("ALTER ROLE only_one CREATEROLE")
    for role in (services.OWNER, services.API, services.WORKER):
        older.execute(f"GRANT {role} TO only_one WITH ADMIN OPTION")
    older.make_roles(NAME, role="only_one")
    database = Database(url_of(older, services.API), SYSTEM)
    tenant_with_domain(database)
    database.dispose()
    for role in (services.OWNER, services.API, services.WORKER):
        older.execute(f"REVOKE {role} FROM only_one CASCADE")
