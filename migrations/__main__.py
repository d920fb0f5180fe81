"""`python -m migrations`: brings the tables of DIFFFIT_OWNER_DATABASE_URL, or DIFFFIT_DATABASE_URL, to this version."""

import os

from core.service.config import get_settings
from core.service.db.schema import upgrade

if __name__ == "__main__":
    os.umask(0o077)  # a SQLite file is for this user alone
    upgrade(get_settings().owner_database_url)
    print("The database schema is at this version.")
