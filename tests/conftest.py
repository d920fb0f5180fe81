"""Fixtures for all tests: real services once per run, and a new database per test, of both kinds."""

import gc
import os
import shutil
import signal
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace

import boto3
import pytest
from hypothesis import settings
from sqlalchemy import Connection, Engine, event

from core.service.db.schema import upgrade
from core.service.db.session import Database
from core.service.storage import FolderStore, ObjectStore, S3Store
from core.service.tenancy import SYSTEM
from tests import radosgw, services

settings.register_profile("no clock", deadline=None)
settings.load_profile("no clock")
# Triton decides when it is first imported whether its functions run on a GPU or in its interpreter.
os.environ.setdefault("TRITON_INTERPRET", "1")
# A shell starts background jobs with SIGINT ignored, which processes that the tests start and interrupt would inherit.
signal.signal(signal.SIGINT, signal.default_int_handler)

SLOW_FOLDERS = {"client", "deploy", "faults", "upgrade", "worker"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Runs the slowest files first, so that no process of a parallel run works long after the others."""
    items.sort(key=lambda item: item.path.parent.name not in SLOW_FOLDERS)


def pytest_collection_finish() -> None:
    hide_from_the_garbage_collector()


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    if nextitem is None or nextitem.path != item.path:
        hide_from_the_garbage_collector()


def hide_from_the_garbage_collector() -> None:
    """Hides all existing objects from the garbage collector. After every out-of-memory error the code under test
    collects garbage, which takes up to a second with the modules and the session's fixtures of all tests."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def order_of_locks() -> Iterator[None]:
    """Fails any transaction of any test that locks a row before its tenant's quotas: it can deadlock with those that
    lock in the other order."""

    def begin(connection: Connection) -> None:
        connection.info["first_lock"] = None

    def check(connection: Connection, _cursor: object, statement: str, *_: object) -> None:
        is_quota = "pg_advisory_xact_lock(hashtextextended" in statement
        if is_quota or "FOR UPDATE" in statement:
            connection.info["first_lock"] = connection.info.get("first_lock") or statement
        if is_quota:
            first = connection.info["first_lock"]
            assert first == statement, f"locks a row before the quotas: {first}"

    event.listen(Engine, "begin", begin)
    event.listen(Engine, "before_cursor_execute", check)
    yield
    event.remove(Engine, "begin", begin)
    event.remove(Engine, "before_cursor_execute", check)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[services.Postgres]:
    with services.postgres() as server:
        yield server


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with services.redis(tmp_path_factory.mktemp("redis")) as url:
        yield url


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        with services.s3() as endpoint:
            yield endpoint


@pytest.fixture(scope="session")
def ceph_gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[radosgw.Gateway]:
    with ExitStack() as stack:
        try:
            gateway = stack.enter_context(radosgw.radosgw(tmp_path_factory.mktemp("ceph")))
        except radosgw.NotStarted as error:
            pytest.skip(f"Ceph is installed but does not start here: {error}")
        yield gateway


@pytest.fixture(scope="session")
def migrated_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a SQLite database with tables, for tests to copy: migrating takes a second."""
    path = tmp_path_factory.mktemp("migrated") / "test.db"
    upgrade(f"sqlite:///{path}")
    return path


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Yields the owner's URL of a database without tables. Every test that uses it runs on both kinds of database."""
    with new_database(request, tmp_path, migrated=False) as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Yields the owner's URL of a migrated database. Every test that uses it runs on both kinds of database."""
    with new_database(request, tmp_path, migrated=True) as url:
        yield url


@contextmanager
def new_database(request: pytest.FixtureRequest, folder: Path, *, migrated: bool) -> Iterator[str]:
    """Creates a database of the kind that the fixture's parameter names, and yields its owner's URL."""
    if request.param == "sqlite":
        path = folder / "test.db"
        if migrated:
            shutil.copy(request.getfixturevalue("migrated_sqlite"), path)
        yield f"sqlite:///{path}"
        return
    server: services.Postgres = request.getfixturevalue("postgres_server")
    name = f"test_{uuid.uuid4().hex}"
    yield server.create_migrated(name) if migrated else server.create(name)
    server.drop(name)


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """Yields a migrated database with the worker's role."""
    database = Database(services.as_role(database_url, services.WORKER), SYSTEM)
    yield database
    database.dispose()


@pytest.fixture
def one_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Freezes the clock of rate limits, so that no new minute begins during a test."""
    moment = time.time() // 60 * 60 + 10
    clock = SimpleNamespace(time=lambda: moment)
    monkeypatch.setattr("limits.storage.memory.time", clock)
    monkeypatch.setattr("limits.strategies.time", clock)


@pytest.fixture(params=["folder", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectStore:
    """Returns an empty object store of each kind."""
    if request.param == "folder":
        return FolderStore(tmp_path / "objects")
    endpoint: str = request.getfixturevalue("s3_endpoint")
    bucket = f"test-{uuid.uuid4().hex}"
    boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1").create_bucket(Bucket=bucket)
    return S3Store(bucket, "prefix", endpoint, "us-east-1")
