"""Alembic's environment."""

from alembic import context
from sqlalchemy import event, text

from core.service.config import get_settings
from core.service.db.models import Tenant
from core.service.db.session import Database
from core.service.tenancy import SYSTEM


def run() -> None:
    url = context.config.attributes.get("url") or get_settings().owner_database_url
    database = Database(url, SYSTEM)  # the policies bind the tables' owner too, and a migration may change rows
    if database.engine.dialect.name == "sqlite":
        # A table that is made anew takes the old one's place: dropping that would delete what refers to its rows.
        event.listen(database.engine, "connect", lambda connection, _: connection.execute("PRAGMA foreign_keys=OFF"))
    with database.session() as session:
        connection = session.connection()
        if connection.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(7316)"))
        context.configure(
            connection=connection,
            target_metadata=Tenant.metadata,
            render_as_batch=connection.dialect.name == "sqlite",
            compare_type=True,
            # One transaction for all of it; on SQLite too, where it begins with the write lock.
            transactional_ddl=True,
        )
        with context.begin_transaction():
            context.run_migrations()
    database.dispose()


run()
