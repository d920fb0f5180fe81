"""Message broker: one Celery configuration for the API, which sends messages, and the workers, which receive them."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from core.service.config import Settings

if TYPE_CHECKING:
    from celery import Celery

logger = logging.getLogger(__name__)


def make_celery(settings: Settings) -> "Celery":
    """Returns a Celery application for the configured broker. Results of jobs are database rows, so it has no result
    backend."""
    from celery import Celery

    in_folder = settings.broker_url.startswith("filesystem")
    app = Celery("difffit", broker="filesystem://localhost" if in_folder else settings.broker_url)  # kombu wants a host
    app.conf.update(
        broker_transport_options=_transport_options(settings),
        broker_connection_timeout=1,
        broker_connection_retry_on_startup=True,
        task_ignore_result=True,
        task_acks_late=False,  # a lost message loses no job: workers also look for database rows
        task_default_queue="datasets",
        task_create_missing_queues=True,
        task_publish_retry=False,
        worker_prefetch_multiplier=1,
        worker_hijack_root_logger=False,
        worker_enable_remote_control=False,
        worker_send_task_events=False,
        enable_utc=True,
    )
    if in_folder:
        from core.service.folder_broker import FolderTransport

        app.conf.broker_transport = FolderTransport
    elif settings.broker_url.startswith(("redis:", "rediss:")):
        from core.service.redis_broker import RedisTransport

        app.conf.broker_transport = RedisTransport
    return app


class CeleryDispatcher:
    """Wakes workers for jobs by Celery messages."""

    def __init__(self, app: "Celery") -> None:
        self.app = app

    def send(self, task: str, queue: str, id: str) -> None:
        """Sends a message with the job's id, in at most about a second. Never raises: the job's row is in the database,
        and workers also look for rows by themselves."""
        try:
            self.app.send_task(task, args=[id], queue=queue, retry=False, ignore_result=True)
        except Exception as error:  # whatever the transport raises: no job is lost
            logger.warning(
                "could not send %s for %s to the broker (%s); a worker will find the job in the database",
                task,
                id,
                error,
            )

    def check(self) -> None:
        """Connects to the broker. Raises the Celery transport's own exception when the broker cannot be reached."""
        with self.app.connection_for_write(connect_timeout=1) as connection:
            connection.ensure_connection(max_retries=1, timeout=1)


def _transport_options(settings: Settings) -> dict[str, object]:
    if not settings.broker_url.startswith("filesystem"):
        # Gives up sending at once: by default kombu waits two seconds and retries. A worker finds the job's row anyhow.
        sender = {"max_retries": 1, "interval_start": 0}
        return {"socket_connect_timeout": 1, "socket_timeout": 5, "visibility_timeout": 3600, **sender}
    folder = _folder(settings.data_dir / "broker" / "messages")
    return {
        "data_folder_in": folder,
        "data_folder_out": folder,
        "control_folder": _folder(settings.data_dir / "broker" / "control"),
        "polling_interval": 0.05,
    }


def _folder(path: Path) -> str:
    path.mkdir(parents=True, exist_ok=True)
    return str(path.absolute())
