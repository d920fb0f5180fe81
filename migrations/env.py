"""Alembic's environment."""

from alembic import context

from core.config import get_settings
from core.db.models import Tenant
from core.db.session import Database


def run() -> None:
    url = context.config.attributes.get("url") or get_settings().database_url
    database = Database(url)
    with database.engine.connect() as connection:
        context.configure(
            connection=connection,
            target_metadata=Tenant.metadata,
            render_as_batch=connection.dialect.name == "sqlite",
            compare_type=True,
        )
        with context.begin_transaction():
            context.run_migrations()
        connection.commit()
    database.dispose()


run()
