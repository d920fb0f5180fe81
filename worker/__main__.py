"""`python -m worker` starts a worker for the queues in DIFFFIT_WORKER_QUEUES. Waits for the database if it does not
respond. Exits with status 1 on failure."""

import itertools
import logging
import os
import signal
import sys
import time

from sqlalchemy import Engine

from core.artifact.errors import CoreError
from core.service.command_line import read_settings
from core.service.config import Settings
from core.service.db.roles import check_role
from core.service.db.schema import is_current, upgrade
from core.service.db.session import Database
from core.service.errors import DatabaseUnavailable
from core.service.logs import configure_logs

logger = logging.getLogger(__name__)
_PAUSES = (1, 2, 4, 8, 15)
"""Seconds between the tries to reach the database; the last pause is repeated."""


def main() -> None:
    settings = read_settings("worker", __doc__, "The worker cannot start")
    os.umask(0o077)  # only this user may read stored objects and an embedded database
    configure_logs(settings)
    # Until Celery sets its handlers. By default, the first process of a container ignores SIGTERM.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: sys.exit(0))
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
    _check_role(database.engine)
    if not is_current(database.engine):
        sys.exit("The database schema is not at this version. Run `python -m migrations` first.")
    database.dispose()


def _check_role(engine: Engine) -> None:
    """Checks the database role as soon as the database responds. Supervisors restart a process that ends again and
    again only after growing pauses, so waiting here ends sooner. Raises DatabaseRoleUnfit, DatabaseSignInRejected."""
    for pause in itertools.chain(_PAUSES, itertools.repeat(_PAUSES[-1])):
        try:
            check_role(engine)
        except DatabaseUnavailable as error:
            reason = str(error.__cause__).splitlines()[0]
            logger.warning("the database does not respond, the worker tries again in %d s: %s", pause, reason)
            time.sleep(pause)
        else:
            break


if __name__ == "__main__":
    main()
