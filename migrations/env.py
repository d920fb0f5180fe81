"""Alembic's environment."""

from alembic import context
from sqlalchemy import text

from core.config import get_settings
from core.db.models import Tenant
from core.db.session import Database


def run() -> None:
    url = context.config.attributes.get("url") or get_settings().database_url
    database = Database(url)
    with database.engine.begin() as connection:
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
