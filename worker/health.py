"""Health check, `python -m worker.health`: exits with status 0 if a worker on this machine has recently reported to the
database that it is healthy, else with status 1 and the problem. Also exits with status 0 if the database does not
respond: a worker's running jobs survive that, but not a restart."""

import socket
import sys

from core.service import fleet
from core.service.command_line import read_settings
from core.service.db.session import Database
from core.service.errors import DatabaseUnavailable


def main() -> None:
    settings = read_settings("worker.health", __doc__, "The worker's health cannot be checked")
    try:
        with Database(settings.worker_database_url).reading() as session:
            here = [worker for worker in fleet.workers(session) if worker.hostname == socket.gethostname()]
    except DatabaseUnavailable:
        print("The database does not respond, so the worker's health is unknown.", file=sys.stderr)
        return
    if any(worker.healthy for worker in here):
        return
    problems = [worker.problem for worker in here if worker.problem]
    sys.exit(" ".join(problems) or "no worker on this machine has reported recently")


if __name__ == "__main__":
    main()
