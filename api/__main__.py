"""`python -m api`: serves the API until Ctrl-C or SIGTERM."""

import signal
import socket
import sys
from types import FrameType

import uvicorn

from api.app import create_app, prepare
from api.notifier import Notifier
from core.config import get_settings
from core.errors import CoreError


def main() -> None:
    try:
        settings = get_settings()
        app = create_app(settings)
        prepare(app.state.services)
    except (CoreError, ValueError) as error:
        sys.exit(f"The API cannot start: {error}")
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=10,
    )
    # The server ends its work on these signals and then raises them again, when there is nothing left to end.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: sys.exit(0))
    _Server(config, app.state.services.notifier).run()


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
        """Ends event streams when a signal arrives, since a graceful stop waits for open responses."""
        self.notifier.close()
        super().handle_exit(sig, frame)


if __name__ == "__main__":
    main()
