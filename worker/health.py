"""Health check, `python -m worker.health`: exits with status 0 if a worker on this machine has recently reported to the
database that it is healthy, else with status 1 and the problem."""

import socket
import sys

from core.service import fleet
from core.service.config import get_settings
from core.service.db.session import Database


def main() -> None:
    with Database(get_settings().worker_database_url).reading() as session:
        here = [worker for worker in fleet.workers(session) if worker.hostname == socket.gethostname()]
    if any(worker.healthy for worker in here):
        sys.exit(0)
    problems = [worker.problem for worker in here if worker.problem]
    sys.exit(" ".join(problems) or "no worker on this machine has reported recently")


if __name__ == "__main__":
    main()
