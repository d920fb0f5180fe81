"""Messages in a folder: each appears complete with any number of writers and readers; malformed ones are skipped."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import Empty

import pytest
from kombu import Consumer, Queue
from redis import Redis

from core.service.broker import CeleryDispatcher, make_celery
from core.service.config import Settings
from core.service.folder_broker import FolderChannel

MESSAGES = 300


def test_messages_are_never_read_half_written(tmp_path: Path) -> None:
    settings = Settings(_env_file=None, data_dir=tmp_path)  # type: ignore[call-arg]
    dispatcher = CeleryDispatcher(make_celery(settings))

    def read(_: int) -> list[str]:
        received: list[str] = []
        with make_celery(settings).connection_for_read() as connection:
            channel = connection.channel()
            assert isinstance(channel, FolderChannel)
            while True:
                try:
                    received.append(channel._get("generate")["headers"]["argsrepr"])
                except Empty:
                    if sent.done() and not list((tmp_path / "broker" / "messages").iterdir()):
                        break
        return received

    with ThreadPoolExecutor(5) as pool:
        sent = pool.submit(lambda: [dispatcher.send("generate.run", "generate", str(n)) for n in range(MESSAGES)])
        reading = [pool.submit(read, reader) for reader in range(4)]
        received = [id for reader in reading for id in reader.result()]
    assert sorted(received) == sorted(repr([str(n)]) for n in range(MESSAGES))


POISON = ["", "garbage", "5", "{}", '{"body": 1}', '{"properties": {}}', "\udcff"]


@pytest.fixture(params=["folder", "redis"])
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> Settings:
    url = "" if request.param == "folder" else request.getfixturevalue("redis_url")
    return Settings(_env_file=None, data_dir=tmp_path, broker_url=url)  # type: ignore[call-arg]


@pytest.mark.parametrize("poison", POISON)
def test_consumer_skips_malformed_messages(settings: Settings, poison: str) -> None:
    app, queue, received = make_celery(settings), "poisoned", list[str]()
    with app.connection_for_read() as connection:
        consumer = Consumer(connection, [Queue(queue, queue, queue)], accept=["json"])
        consumer.register_callback(lambda _, message: received.append(message.headers["argsrepr"]))
        with consumer:
            put_raw(settings, queue, poison.encode(errors="surrogateescape"))
            CeleryDispatcher(app).send("generate.run", queue, "gen_1")
            while not received:
                connection.drain_events(timeout=60)
            consumer.purge()
    assert received == ["['gen_1']"]


def put_raw(settings: Settings, queue: str, data: bytes) -> None:
    """Writes a message that sorts before those of a dispatcher."""
    if settings.broker_url.startswith("redis"):
        Redis.from_url(settings.broker_url).lpush(queue, data)
    else:
        (settings.data_dir / "broker" / "messages" / f"0_poison.{queue}.msg").write_bytes(data)
