"""`python -m migrations`: migrates the tables of DIFFFIT_OWNER_DATABASE_URL, or else DIFFFIT_DATABASE_URL, to the
newest schema version."""

import os

from core.service.config import get_settings
from core.service.db.schema import upgrade

if __name__ == "__main__":
    os.umask(0o077)  # only this user may read a new SQLite file
    upgrade(get_settings().owner_database_url)
    print("The database schema is at this version.")
