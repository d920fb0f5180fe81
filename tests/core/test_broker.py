"""Messages in a folder: each appears whole, however many write and read at once."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import Empty

from core.broker import CeleryDispatcher, make_celery
from core.config import Settings
from core.folder_broker import FolderChannel

MESSAGES = 300


def test_no_message_is_met_half_written(tmp_path: Path) -> None:
    settings = Settings(_env_file=None, data_dir=tmp_path)  # type: ignore[call-arg]
    dispatcher = CeleryDispatcher(make_celery(settings))

    def read(_: int) -> list[str]:
        found: list[str] = []
        with make_celery(settings).connection_for_read() as connection:
            channel = connection.channel()
            assert isinstance(channel, FolderChannel)
            while True:
                try:
                    found.append(channel._get("generate")["headers"]["argsrepr"])
                except Empty:
                    if sent.done() and not list((tmp_path / "broker" / "messages").iterdir()):
                        break
        return found

    with ThreadPoolExecutor(5) as pool:
        sent = pool.submit(lambda: [dispatcher.send("generate.run", "generate", str(n)) for n in range(MESSAGES)])
        reading = [pool.submit(read, reader) for reader in range(4)]
        found = [id for one in reading for id in one.result()]
    assert sorted(found) == sorted(repr([str(n)]) for n in range(MESSAGES))
