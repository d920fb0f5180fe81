"""`python -m migrations`: brings the tables of DIFFFIT_OWNER_DATABASE_URL, or DIFFFIT_DATABASE_URL, to this version."""

from core.config import get_settings
from core.db.schema import upgrade

if __name__ == "__main__":
    upgrade(get_settings().owner_database_url)
    print("The tables are at this version.")
