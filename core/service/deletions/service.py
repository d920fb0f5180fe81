"""Deletion of a domain or a tenant. Its rows go in one commit, which leaves a receipt, or step by step where there are
very many. Its objects follow, and the adapters that workers hold; then the receipt states when all of it was gone."""

import datetime
import logging
import time
from collections import Counter
from typing import Literal

from sqlalchemy.orm import Session

from core.artifact.errors import NotFound
from core.service import fleet
from core.service.db.base import new_id
from core.service.db.models import Adapter, Deletion, Domain, Tenant
from core.service.db.paging import Page, PageRequest
from core.service.db.session import Database, database_now
from core.service.deletions import repository
from core.service.storage import ObjectStore
from core.service.tenancy import SYSTEM, Scope

logger = logging.getLogger(__name__)
_PAGE = 500
_ROWS = 500
"""Max rows of each large table that one transaction removes: about 0.1 s."""
_SECONDS = 2.0
"""Time limit of one call. The next call continues, so that a worker's other chores have their turn."""
_AT_ONCE = 20
_CLAIM = datetime.timedelta(minutes=5)
"""Time in which a page of objects must be removed, before another worker takes the deletion up."""


def record(session: Session, scope: Scope, row: Domain | Tenant, prefix: str) -> Deletion:
    """Creates the receipt of a row that is about to be deleted with all it owns."""
    kind: Literal["domain", "tenant"] = "domain" if isinstance(row, Domain) else "tenant"
    column = Adapter.domain_id if kind == "domain" else Adapter.tenant_id
    deletion = Deletion(
        id=new_id("del"),
        tenant_id=row.tenant_id if isinstance(row, Domain) else row.id,
        kind=kind,
        target=row.id,
        actor_key_id=scope.key_id,
        prefix=prefix,
        rows={},
        adapters=repository.adapters(session, scope, column, row.id),
        objects=0,
        bytes=0,
    )
    session.add(deletion)
    session.flush()
    return deletion


def remove(session: Session, deletion: Deletion, row: Domain | Tenant) -> None:
    """Removes a row with all it owns, or hides it and leaves the rest to the workers where that would take long."""
    if not _remove_rows(session, deletion, row):
        _note(deletion, repository.end_work(session, deletion))
        row.name, row.deleted_at = row.id, database_now(session)  # its name may be taken again


def _remove_rows(session: Session, deletion: Deletion, row: Domain | Tenant) -> bool:
    """Removes some of the rows, and with the last of them the row itself. Returns False as long as there are more."""
    removed, is_all = repository.remove_some(session, deletion, _ROWS)
    if is_all:  # what is left is little
        removed.update(repository.count_owned(session, type(row).__table__, row.id))  # type: ignore[arg-type]  # both are tables
        session.delete(row)
    _note(deletion, removed)
    return is_all


def _note(deletion: Deletion, removed: Counter[str]) -> None:
    counts = removed + Counter(deletion.rows)  # without those that are 0
    deletion.rows = dict(sorted(counts.items()))


def get(session: Session, scope: Scope, id: str) -> Deletion:
    """Raises NotFound."""
    deletion = repository.get(session, scope, id)
    if deletion is None:
        raise NotFound("deletion", id)
    return deletion


def listing(session: Session, scope: Scope, request: PageRequest, tenant_id: str | None = None) -> Page[Deletion]:
    """Lists deletions, newest first: of one tenant, or of all for an administrator."""
    return repository.page(session, scope, tenant_id, request)


def advance(database: Database, store: ObjectStore) -> None:
    """Continues deletions that are not done, in a worker. Any number of workers may call it at any time.

    A deletion is done when nothing lies under its prefix any more, and every worker that lives has since let go of what
    was deleted: what work in progress has stored meanwhile is found by the next call. Raises StorageUnavailable,
    DatabaseUnavailable.
    """
    with database.session(SYSTEM) as session:
        now = database_now(session)
        claimed = repository.unfinished(session, now, _AT_ONCE)
        for deletion in claimed:
            deletion.claimed_until = now + _CLAIM
    for deletion in claimed:
        try:
            _advance(database, store, deletion.id, deletion.prefix, is_first=deletion.emptied_at is None)
        finally:
            _let_go(database, deletion.id)


def _advance(database: Database, store: ObjectStore, id: str, prefix: str, *, is_first: bool) -> None:
    until = time.monotonic() + _SECONDS
    while not _step(database, id):
        if time.monotonic() > until:
            return
    store.drop_parts(prefix, older_than_seconds=-_CLAIM.total_seconds())
    removed = 0
    while page := store.page(prefix, "", _PAGE):
        store.delete([stored.key for stored in page])
        removed += len(page)
        with database.session(SYSTEM) as session:
            if (row := repository.get(session, SYSTEM, id, lock=True)) is not None:
                row.objects += len(page)
                row.bytes += sum(stored.size for stored in page)
                row.claimed_until = database_now(session) + _CLAIM
        if time.monotonic() > until:
            break
    if removed or is_first:
        logger.info("removed %d objects under %s", removed, prefix)
    with database.session(SYSTEM) as session:
        row, now = repository.get(session, SYSTEM, id, lock=True), database_now(session)
        if row is None or row.done_at is not None:
            return
        if removed or row.emptied_at is None:
            row.emptied_at = now
        elif not fleet.some_worker_may_hold(session, row.emptied_at):
            row.done_at = now


def _step(database: Database, id: str) -> bool:
    """Removes some of the rows of a deletion. Returns True when none are left."""
    with database.session(SYSTEM) as session:
        deletion = repository.get(session, SYSTEM, id, lock=True)
        row = None if deletion is None else repository.owner(session, deletion)
        if deletion is None or row is None:
            return True
        deletion.claimed_until = database_now(session) + _CLAIM
        return _remove_rows(session, deletion, row)


def _let_go(database: Database, id: str) -> None:
    with database.session(SYSTEM) as session:
        if (row := repository.get(session, SYSTEM, id, lock=True)) is not None:
            row.claimed_until = None
