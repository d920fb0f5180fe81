"""The embedded broker: kombu's transport in a folder, made safe for readers and writers that are several processes."""

import time
import uuid
from pathlib import Path
from typing import Any

from kombu.transport import filesystem
from kombu.utils.json import dumps


class FolderChannel(filesystem.Channel):
    """Kombu's broker in a folder, whose messages appear whole: a reader that met one half written would end with it."""

    def _put(self, queue: str, payload: Any, **_: Any) -> None:  # type: ignore[override]  # the name as in its parent
        folder, name = Path(self.data_folder_out), f"{time.monotonic_ns() // 10**6}_{uuid.uuid4()}.{queue}.msg"
        partial = folder / f".{name}.partial"
        partial.write_text(dumps(payload))
        partial.replace(folder / name)


class FolderTransport(filesystem.Transport):
    Channel = FolderChannel
