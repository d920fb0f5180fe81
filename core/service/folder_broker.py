"""The embedded broker: kombu's transport in a folder, made safe for readers and writers that are several processes."""

import logging
import os
import time
import uuid
from pathlib import Path
from typing import Any

from kombu.transport import filesystem
from kombu.utils.json import dumps

from core.service.poison import PoisonTolerant

logger = logging.getLogger(__name__)


class FolderChannel(filesystem.Channel):
    """Kombu's broker in a folder, whose messages appear whole: a reader that met one half written would end with it."""

    def _put(self, queue: str, payload: Any, **_: Any) -> None:  # type: ignore[override]  # the name as in its parent
        folder, name = Path(self.data_folder_out), f"{time.monotonic_ns() // 10**6}_{uuid.uuid4()}.{queue}.msg"
        partial = folder / f".{name}.partial"
        with partial.open("w") as file:
            file.write(dumps(payload))
            file.flush()
            os.fsync(file.fileno())  # after a power failure the name must not exist without its content
        partial.replace(folder / name)

    def _get(self, queue: str, timeout: float | None = None) -> Any:  # noqa: ARG002  # the stubs' signature
        """The next message that can be read; others are dropped, as kombu takes a file away before it reads it."""
        while True:
            try:
                return super()._get(queue)
            except ValueError as error:
                logger.warning("dropped a message of %s that cannot be read: %s", queue, error)


class FolderTransport(PoisonTolerant, filesystem.Transport):
    Channel = FolderChannel
