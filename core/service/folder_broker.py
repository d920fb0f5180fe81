"""Embedded broker: kombu's transport with messages in a folder, made safe for several reading and writing processes."""

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
    """Kombu's channel with messages in a folder, changed so that each message appears at once and complete. A reader
    that met a partly written message would stop."""

    def _put(self, queue: str, payload: Any, **_: Any) -> None:  # type: ignore[override]  # kombu calls it `payload`; the stubs do not
        folder, name = Path(self.data_folder_out), f"{time.monotonic_ns() // 10**6}_{uuid.uuid4()}.{queue}.msg"
        partial = folder / f".{name}.partial"
        with partial.open("w") as file:
            file.write(dumps(payload))
            file.flush()
            os.fsync(file.fileno())  # after a power failure, the file must not exist without its content
        partial.replace(folder / name)

    def _get(self, queue: str, timeout: float | None = None) -> Any:  # noqa: ARG002  # the stubs' signature
        """Returns the next readable message. Drops unreadable messages with a warning: kombu has already removed their
        files from the folder before it parses them."""
        while True:
            try:
                return super()._get(queue)
            except ValueError as error:
                logger.warning("dropped a message of %s that cannot be read: %s", queue, error)


class FolderTransport(PoisonTolerant, filesystem.Transport):
    Channel = FolderChannel
