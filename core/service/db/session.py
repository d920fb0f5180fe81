"""Sessions. `Database.session()` holds the only commit of the project."""

import datetime
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
_ALONE, _SCOPE = "difffit_alone", "difffit_scope"
"""Execution options of a connection: whether each statement is its own transaction, and the scope of a transaction."""
_LIMITS = "-c lock_timeout=10s -c statement_timeout=30s -c idle_in_transaction_session_timeout=10s"
"""Time-outs on PostgreSQL: a process that is stopped in a transaction must not keep its rows locked, since nobody could
claim them."""

_TRUSTED_SECONDS = 1.0
"""Age up to which a connection is used without a ping: pinging each time would cost a busy service as much as its
queries."""


class Database:
    """A connection pool and the transactions made from it. Safe to share between threads.

    `scope` is that of sessions that name none: a worker's see every tenant's rows, the API's see no tenant's.
    """

    def __init__(self, url: str, scope: Scope | None = None) -> None:
        self.scope = scope
        self.engine = _sqlite(url) if url.startswith("sqlite") else _postgresql(url)
        self._sessions = sessionmaker(self.engine, expire_on_commit=False)
        filter_statements(self._sessions)

    @contextmanager
    def statements(self) -> Iterator[Session]:
        """Opens a session without a scope, in which each statement is its own transaction: one round trip instead of
        three. SQLite keeps its transactions: they are no round trips.

        Raises DatabaseUnavailable.
        """
        with self._begun(None, {_ALONE: True}) as session:
            yield session

    @contextmanager
    def session(self, scope: Scope | None = None) -> Iterator[Session]:
        """Opens one transaction: committed at the end, rolled back on an error. Actions registered with `after_commit`
        run after a commit and are dropped with a rollback.

        It reaches the rows of `scope` alone, by the filter of `core.service.db.isolation`, and on PostgreSQL by
        row-level security too.

        Raises DatabaseUnavailable when the database cannot be reached or drops the connection.
        """
        scope = scope or self.scope
        with self._begun(scope, {_SCOPE: scope}) as session:
            yield session
        for action in session.info.pop(_AFTER_COMMIT, []):
            action()

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
            if isinstance(error, (OperationalError, InterfaceError)) or error.connection_invalidated:
                raise DatabaseUnavailable() from error
            raise
        finally:
            session.close()

    def dispose(self) -> None:
        self.engine.dispose()


def after_commit(session: Session, action: Callable[[], None]) -> None:
    """Runs `action` once this transaction is committed, outside of it."""
    session.info.setdefault(_AFTER_COMMIT, []).append(action)


def database_now(session: Session) -> datetime.datetime:
    """Returns the time of the database's clock, which all workers' leases use."""
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
        scope = options.get(_SCOPE)
        connection.exec_driver_sql(f"BEGIN; {admission(scope)}" if scope else "BEGIN")

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
            raise InvalidatePoolError from error  # the others are as old: the pool connects again

    return engine


def _sqlite(url: str) -> Engine:
    path = make_url(url).database
    if path:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
    engine = create_engine(url, connect_args={"timeout": 30})

    @event.listens_for(engine, "connect")
    def configure(connection, _record) -> None:  # type: ignore[no-untyped-def]  # the driver's own connection
        connection.isolation_level = None
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")
        connection.execute("PRAGMA foreign_keys=ON")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        # A busy timeout does not cover a read that becomes a write: take the write lock at once.
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine
