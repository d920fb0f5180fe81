"""Alembic's environment, which runs all migrations in one transaction."""

from alembic import context
from sqlalchemy import event, text

from core.service.config import get_settings
from core.service.db.models import Tenant
from core.service.db.session import Database
from core.service.tenancy import SYSTEM


def run() -> None:
    url = context.config.attributes.get("url") or get_settings().owner_database_url
    database = Database(url, SYSTEM)  # row-level security binds the owner too, and migrations change rows
    if database.engine.dialect.name == "sqlite":
        # Alembic changes a SQLite table by replacing it with a changed copy. With foreign keys on, dropping the old
        # table would delete the rows that refer to its rows.
        event.listen(database.engine, "connect", lambda connection, _: connection.execute("PRAGMA foreign_keys=OFF"))
    with database.session() as session:
        connection = session.connection()
        if connection.dialect.name == "postgresql":
            # A large table may take minutes, and other processes that migrate wait meanwhile.
            for setting in ("statement_timeout", "idle_in_transaction_session_timeout", "lock_timeout"):
                connection.execute(text(f"SET LOCAL {setting} = 0"))
            connection.execute(text("SELECT pg_advisory_xact_lock(7316)"))
            connection.execute(text("SET LOCAL lock_timeout TO DEFAULT"))
        context.configure(
            connection=connection,
            target_metadata=Tenant.metadata,
            render_as_batch=connection.dialect.name == "sqlite",
            compare_type=True,
            # One transaction for all migrations; on SQLite too, where the transaction begins with the write lock.
            transactional_ddl=True,
        )
        with context.begin_transaction():
            context.run_migrations()
    database.dispose()


run()
