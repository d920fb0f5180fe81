"""The tables' version: migrations are run by alembic, which is imported when a process starts, not with its modules."""

from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Engine

from core.service.errors import DatabaseUnavailable

if TYPE_CHECKING:
    from alembic.config import Config

_MIGRATIONS = Path(__file__).parents[3] / "migrations"


def upgrade(url: str) -> None:
    """Brings the tables to this version. Processes that start together do it one after the other."""
    from alembic import command

    command.upgrade(config(url), "head")


def is_current(engine: Engine) -> bool:
    """Whether the tables are at this version. Raises DatabaseUnavailable."""
    from alembic.runtime.migration import MigrationContext
    from alembic.script import ScriptDirectory

    head = ScriptDirectory(str(_MIGRATIONS)).get_current_head()
    try:
        with engine.connect() as connection:
            return MigrationContext.configure(connection).get_current_revision() == head
    except Exception as error:  # drivers raise different errors
        raise DatabaseUnavailable() from error


def config(url: str) -> "Config":
    from alembic.config import Config

    settings = Config()
    settings.set_main_option("script_location", str(_MIGRATIONS))
    settings.attributes["url"] = url
    return settings
