"""`python -m api`: serves the API until Ctrl-C or SIGTERM."""

import uvicorn

from api.app import create_app
from core.config import get_settings


def main() -> None:
    settings = get_settings()
    app = create_app(settings)
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=10,
    )
    server = _Server(config)
    print(f"DiffFit Server listens on http://{settings.host}:{settings.port} (documentation: /docs)", flush=True)
    server.run()


class _Server(uvicorn.Server):
    """Ends event streams when a signal arrives, since a graceful stop waits for open responses."""

    def handle_exit(self, sig: int, frame: object) -> None:
        notifier = self.config.app.state.services.notifier  # type: ignore[union-attr]
        notifier.stopping.set()
        for events in notifier._watched.values():
            for event in events:
                event.set()
        super().handle_exit(sig, frame)  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
