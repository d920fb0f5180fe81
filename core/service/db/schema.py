"""Schema version of the database, which Alembic's migrations upgrade. Alembic is imported in the functions, not with
the module, since only the start of a process needs it."""

from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Engine

from core.service.db.session import READ_ONLY
from core.service.errors import DatabaseUnavailable

if TYPE_CHECKING:
    from alembic.config import Config

_MIGRATIONS = Path(__file__).parents[3] / "migrations"


def upgrade(url: str) -> None:
    """Migrates the tables to the newest schema version. Processes that start together migrate one after the other."""
    from alembic import command

    command.upgrade(config(url), "head")


def is_current(engine: Engine) -> bool:
    """Returns whether the tables are at the newest schema version. Raises DatabaseUnavailable."""
    from alembic.runtime.migration import MigrationContext
    from alembic.script import ScriptDirectory

    head = ScriptDirectory(str(_MIGRATIONS)).get_current_head()
    try:
        with engine.connect().execution_options(**READ_ONLY) as connection:
            return MigrationContext.configure(connection).get_current_revision() == head
    except Exception as error:  # drivers raise different errors
        raise DatabaseUnavailable() from error


def config(url: str) -> "Config":
    from alembic.config import Config

    settings = Config()
    settings.set_main_option("script_location", str(_MIGRATIONS))
    settings.attributes["url"] = url
    return settings
