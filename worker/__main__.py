"""`python -m worker` starts a worker for the queues in DIFFFIT_WORKER_QUEUES. Exits with status 1 on failure."""

import os
import sys

from core.artifact.errors import CoreError
from core.service.config import Settings, get_settings
from core.service.db.roles import check_role
from core.service.db.schema import is_current, upgrade
from core.service.db.session import Database
from core.service.logs import configure_logs


def main() -> None:
    os.umask(0o077)  # only this user may read stored objects and an embedded database
    settings = get_settings()
    configure_logs(settings)
    try:
        problem = _run(settings)
    except CoreError as error:
        sys.exit(f"The worker cannot start: {error.detail}")
    if problem is not None:
        sys.exit(f"The worker ended: {problem}")


def _run(settings: Settings) -> str | None:
    if settings.embedded:
        upgrade(settings.database_url)
    else:
        _check(settings.worker_database_url)
    from worker.app import run  # imported late, since it loads torch, which takes seconds

    return run(settings)


def _check(url: str) -> None:
    database = Database(url)
    check_role(database.engine)
    if not is_current(database.engine):
        sys.exit("The database schema is not at this version. Run `python -m migrations` first.")
    database.dispose()


if __name__ == "__main__":
    main()
