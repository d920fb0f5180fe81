"""Command `python -m api`, which serves the API until Ctrl-C or SIGTERM."""

import os
import resource
import signal
import socket
import sys
from types import FrameType

import uvicorn
from fastapi import FastAPI

from api.app import create_app, prepare
from api.connections import MESSAGE_BYTES, connection_class
from api.notifier import Notifier
from core.artifact.errors import CoreError
from core.service.command_line import read_settings
from core.service.config import Settings

_FILES_OF_OUR_OWN = 500
"""Number of files that the process may open in addition to connections, for the database, uploads and assets."""


def main() -> None:
    settings = read_settings("api", __doc__, "The API cannot start")
    os.umask(0o077)  # only this user may read the database and the objects
    try:
        app = create_app(settings)
        prepare(app.state.services)
    except (CoreError, ValueError) as error:
        sys.exit(f"The API cannot start: {error}")
    _allow_files(settings.max_connections + _FILES_OF_OUR_OWN)
    # uvicorn handles these signals itself and raises them again once it has stopped: exit with status 0 then.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: sys.exit(0))
    _Server(_config(app, settings), app.state.services.notifier).run()


def _config(app: FastAPI, settings: Settings) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        http=connection_class(settings),
        log_config=None,
        access_log=False,
        forwarded_allow_ips=settings.trusted_proxies.split(","),
        limit_concurrency=settings.max_connections,
        ws_max_size=MESSAGE_BYTES,
        timeout_graceful_shutdown=10,
    )


def _allow_files(count: int) -> None:
    """Raises this process's limit of open files to `count`, or as far as the system allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < count:
        allowed = count if hard == resource.RLIM_INFINITY else min(count, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, notifier: Notifier) -> None:
        super().__init__(config)
        self.notifier = notifier

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for server in self.servers:
            for listening in server.sockets:
                host, port = listening.getsockname()[:2]
                where = f"[{host}]" if ":" in host else host
                print(f"DiffFit Server listens on http://{where}:{port} (documentation: /docs)", flush=True)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Ends event streams and waiting requests when a signal arrives, since uvicorn's graceful stop waits until all
        responses have ended."""
        self.notifier.close()
        super().handle_exit(sig, frame)


if __name__ == "__main__":
    main()
