"""Check of the PostgreSQL role that the service uses. The service only works with a role that is subject to row-level
security."""

from sqlalchemy import Engine, text
from sqlalchemy.exc import DBAPIError

from core.service.errors import DatabaseRoleUnfit, DatabaseSignInRejected, DatabaseUnavailable

_ABOUT = text(
    "SELECT rolname, rolsuper, rolbypassrls, has_table_privilege(to_regclass('tenants'), 'INSERT') "
    "FROM pg_roles WHERE rolname = current_user"
)


def check_role(engine: Engine) -> None:
    """Raises DatabaseRoleUnfit if the role is not subject to row-level security, and so sees every tenant's rows, or
    may not write to the existing tables; DatabaseSignInRejected if its password or the database's name is wrong;
    DatabaseUnavailable if the database does not respond. SQLite has no roles to check."""
    if engine.dialect.name != "postgresql":
        return
    try:
        with engine.connect() as connection:
            name, is_superuser, bypasses, may_write = connection.execute(_ABOUT).one()
    except DBAPIError as error:
        attempt = getattr(error.orig, "pgconn", None)  # set if connecting failed; such errors have no SQLSTATE
        if attempt is not None and attempt.used_password:  # the server responded, and asked for the password
            raise DatabaseSignInRejected(str(error.orig)) from error
        raise DatabaseUnavailable() from error
    if is_superuser:
        raise DatabaseRoleUnfit(name, "is a superuser, whom row level security does not bind")
    if bypasses:
        raise DatabaseRoleUnfit(name, "has BYPASSRLS, so that row level security does not bind it")
    if may_write is False:  # None: there are no tables yet
        raise DatabaseRoleUnfit(name, "may not use the tables")
