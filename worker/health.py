"""`python -m worker.health`: exit status 0 when a worker on this machine has been heard of lately."""

import socket
import sys

from core.config import get_settings
from core.db.session import Database
from core.usage import service as usage


def main() -> None:
    with Database(get_settings().worker_database_url).session() as session:
        alive = any(worker.hostname == socket.gethostname() for worker in usage.workers(session))
    sys.exit(0 if alive else "no worker on this machine has been heard of lately")


if __name__ == "__main__":
    main()
