"""Database sessions. `Database` contains the only commit of the project."""

import datetime
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import Connection, Engine, create_engine, event, select
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError, InterfaceError, InvalidatePoolError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.orm import Session, sessionmaker

from core.service.db.base import Now
from core.service.db.isolation import filter_statements, set_scope
from core.service.errors import DatabaseUnavailable
from core.service.tenancy import Scope, admission

_AFTER_COMMIT = "after_commit"
_ALONE, _READS, _SCOPE = "difffit_alone", "difffit_reads", "difffit_scope"
"""Execution options of a connection: `_ALONE` makes each statement its own transaction, `_READS` makes the transaction
read-only, and `_SCOPE` is the scope for row-level security in the transaction."""
READ_ONLY = {_READS: True}
"""Execution options of a connection that only reads."""
_LIMITS = "-c lock_timeout=10s -c statement_timeout=30s -c idle_in_transaction_session_timeout=10s"
"""Timeouts of PostgreSQL connections. A process that is stopped within a transaction must not keep rows locked, since
no worker could claim the rows."""

_TRUSTED_SECONDS = 1.0
"""Max seconds since a pooled connection was last used for it to be reused without a ping. A ping before every use would
cost a busy service as much as its queries."""


class Database:
    """Connection pool, and the sessions made from it. Safe to share between threads.

    `scope` is the default for sessions that are opened without a scope: with `SYSTEM`, as in workers, such sessions see
    every tenant's rows; with None, as in the API, they see no tenant's rows.
    """

    def __init__(self, url: str, scope: Scope | None = None) -> None:
        self.scope = scope
        self.engine = _sqlite(url) if url.startswith("sqlite") else _postgresql(url)
        self._sessions = sessionmaker(self.engine, expire_on_commit=False)
        filter_statements(self._sessions)

    @contextmanager
    def statements(self) -> Iterator[Session]:
        """Opens a session without a scope. Each statement is its own transaction: on PostgreSQL it takes one round trip
        instead of three (BEGIN, statement, COMMIT), and on SQLite a query does not wait for writers.

        Raises DatabaseUnavailable.
        """
        with self._begun(None, {_ALONE: True}) as session:
            yield session

    @contextmanager
    def session(self, scope: Scope | None = None) -> Iterator[Session]:
        """Opens a session with one transaction, which is committed at the end and rolled back on an error. Actions
        registered with `after_commit` run after the commit, and are dropped after a rollback.

        The session reads and changes only rows of `scope`, through the filter of `core.service.db.isolation` and, on
        PostgreSQL, also through row-level security.

        Raises DatabaseUnavailable if the database cannot be reached or drops the connection.
        """
        scope = scope or self.scope
        with self._begun(scope, {_SCOPE: scope}) as session:
            yield session
        for action in session.info.pop(_AFTER_COMMIT, []):
            action()

    @contextmanager
    def reading(self, scope: Scope | None = None) -> Iterator[Session]:
        """Opens a session like `session`, whose transaction cannot change anything. On SQLite it neither waits for
        writers nor makes them wait.

        Raises DatabaseUnavailable.
        """
        scope = scope or self.scope
        with self._begun(scope, {_SCOPE: scope, **READ_ONLY}) as session:
            yield session

    @contextmanager
    def _begun(self, scope: Scope | None, options: dict[str, object]) -> Iterator[Session]:
        session = self._sessions()
        set_scope(session, scope)
        try:
            with session.begin():
                session.connection(execution_options=options)
                yield session
        except PoolTimeoutError as error:
            raise DatabaseUnavailable() from error
        except DBAPIError as error:
            if _READS in options and getattr(error.orig, "sqlite_errorcode", None) == sqlite3.SQLITE_READONLY:
                raise
            if isinstance(error, (OperationalError, InterfaceError)) or error.connection_invalidated:
                raise DatabaseUnavailable() from error
            raise
        finally:
            session.close()

    def dispose(self) -> None:
        self.engine.dispose()


def after_commit(session: Session, action: Callable[[], None]) -> None:
    """Registers `action`, which runs after the session's transaction is committed, outside of the transaction."""
    session.info.setdefault(_AFTER_COMMIT, []).append(action)


def database_now(session: Session) -> datetime.datetime:
    """Returns the current time of the database's clock, which the leases of all workers use."""
    return session.execute(select(Now())).scalar_one()


def _postgresql(url: str) -> Engine:
    url = url.replace("postgresql://", "postgresql+psycopg://", 1)
    engine = create_engine(
        url,
        isolation_level="AUTOCOMMIT",  # the driver begins no transactions: `begin` below does
        pool_size=10,
        max_overflow=20,
        pool_timeout=10,
        connect_args={"connect_timeout": 5, "options": _LIMITS},
    )

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        options = connection.get_execution_options()
        if options.get(_ALONE):
            return
        scope, statement = options.get(_SCOPE), "BEGIN READ ONLY" if options.get(_READS) else "BEGIN"
        connection.exec_driver_sql(f"{statement}; {admission(scope)}" if scope else statement)

    @event.listens_for(engine, "checkin")
    def used(_connection, record) -> None:  # type: ignore[no-untyped-def]
        record.info["used"] = time.monotonic()

    @event.listens_for(engine, "checkout")
    def check(connection, record, _proxy) -> None:  # type: ignore[no-untyped-def]
        if time.monotonic() - record.info.get("used", time.monotonic()) < _TRUSTED_SECONDS:
            return
        try:
            engine.dialect.do_ping(connection)
        except engine.dialect.loaded_dbapi.Error as error:
            raise InvalidatePoolError from error  # the pool replaces all connections, as others are as old

    return engine


def _sqlite(url: str) -> Engine:
    path = make_url(url).database
    if path:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
    engine = create_engine(url, connect_args={"timeout": 30})

    @event.listens_for(engine, "connect")
    def configure(connection, _record) -> None:  # type: ignore[no-untyped-def]  # the driver's connection
        connection.isolation_level = None
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")
        connection.execute("PRAGMA foreign_keys=ON")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        options = connection.get_execution_options()
        reads = options.get(_READS, False)
        connection.exec_driver_sql(f"PRAGMA query_only={int(reads)}")
        if options.get(_ALONE):
            return
        # SQLite's busy timeout does not cover a read transaction that becomes a write: take the write lock at once.
        connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")

    return engine
