"""Deletion of a domain or a tenant: its rows go in one commit, which leaves a receipt. Its objects follow, and the
adapters that workers hold; then the receipt says when all of it was gone."""

import datetime
import logging
from typing import Literal

from sqlalchemy.orm import Session

from core.db.base import new_id
from core.db.models import Adapter, Deletion, Domain, Tenant
from core.db.paging import Page, PageRequest
from core.db.session import Database, database_now
from core.deletions import repository
from core.errors import NotFound
from core.storage import ObjectStore
from core.tenancy import SYSTEM, Scope
from core.usage.service import WORKER_SILENCE

logger = logging.getLogger(__name__)
_PAGE = 500
_AT_ONCE = 20
_CLAIM = datetime.timedelta(minutes=5)
"""How long a page of objects may take to remove, before another worker takes the deletion up."""


def record(session: Session, scope: Scope, row: Domain | Tenant, prefix: str) -> Deletion:
    """The receipt of a row that is about to be deleted with all it owns."""
    kind: Literal["domain", "tenant"] = "domain" if isinstance(row, Domain) else "tenant"
    column = Adapter.domain_id if kind == "domain" else Adapter.tenant_id
    deletion = Deletion(
        id=new_id("del"),
        tenant_id=row.tenant_id if isinstance(row, Domain) else row.id,
        kind=kind,
        target=row.id,
        actor_key_id=scope.key_id,
        prefix=prefix,
        rows=repository.count_owned(session, type(row).__table__, row.id),  # type: ignore[arg-type]  # both are tables
        adapters=repository.adapters(session, scope, column, row.id),
        objects=0,
        bytes=0,
    )
    session.add(deletion)
    session.flush()
    return deletion


def get(session: Session, scope: Scope, id: str) -> Deletion:
    """Raises NotFound."""
    deletion = repository.get(session, scope, id)
    if deletion is None:
        raise NotFound("deletion", id)
    return deletion


def listing(session: Session, scope: Scope, request: PageRequest, tenant_id: str | None = None) -> Page[Deletion]:
    """Newest first; of one tenant, or of all for an administrator."""
    return repository.page(session, scope, tenant_id, request)


def advance(database: Database, store: ObjectStore) -> None:
    """Goes on with every deletion that is not done, as a worker: it may be called at any time, by any number of them.

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
    store.drop_parts(prefix, older_than_seconds=-_CLAIM.total_seconds())
    removed = 0
    while page := store.page(prefix, "", _PAGE):
        store.delete([one.key for one in page])
        removed += len(page)
        with database.session(SYSTEM) as session:
            if (row := repository.get(session, SYSTEM, id, lock=True)) is not None:
                row.objects += len(page)
                row.bytes += sum(one.size for one in page)
                row.claimed_until = database_now(session) + _CLAIM
    if removed or is_first:
        logger.info("removed %d objects under %s", removed, prefix)
    with database.session(SYSTEM) as session:
        row, now = repository.get(session, SYSTEM, id, lock=True), database_now(session)
        if row is None or row.done_at is not None:
            return
        if removed or row.emptied_at is None:
            row.emptied_at = now
        elif not repository.some_worker_may_hold(session, row.emptied_at, now - WORKER_SILENCE):
            row.done_at = now


def _let_go(database: Database, id: str) -> None:
    with database.session(SYSTEM) as session:
        if (row := repository.get(session, SYSTEM, id, lock=True)) is not None:
            row.claimed_until = None
