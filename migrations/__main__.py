"""`python -m migrations`: migrates the tables of DIFFFIT_OWNER_DATABASE_URL, or else DIFFFIT_DATABASE_URL, to the
newest schema version."""

import os
import sys

from core.artifact.errors import CoreError
from core.service.command_line import read_settings
from core.service.db.schema import upgrade


def main() -> None:
    settings = read_settings("migrations", __doc__, "The database cannot be migrated")
    os.umask(0o077)  # only this user may read a new SQLite file
    try:
        upgrade(settings.owner_database_url)
    except CoreError as error:
        sys.exit(f"The database cannot be migrated: {error.detail}")
    print("The database schema is at this version.")


if __name__ == "__main__":
    main()
