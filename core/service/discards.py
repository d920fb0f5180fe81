"""Deletes stored objects whose database rows are gone. An object is recorded as discarded in the transaction that
removes its row, and deleted from the object store afterwards.

So no object is deleted while its row may exist, and none stays after its row is gone: if a worker is lost after the
transaction, another worker finds the record and deletes the object. Deleting a missing object is not an error.
"""

import datetime
import logging
from collections import Counter
from collections.abc import Iterable, Sequence

from sqlalchemy import delete, insert, select, update
from sqlalchemy.orm import Session

from core.service import metering
from core.service.db.models import DiscardedObject
from core.service.db.session import Database, database_now
from core.service.storage import ObjectStore
from core.service.tenancy import SYSTEM

logger = logging.getLogger(__name__)
_PAGE = 500
_CLAIM = datetime.timedelta(minutes=5)
"""Time that a worker has to delete a page of objects; then another worker may delete the same page."""


def record(
    session: Session, objects: Iterable[tuple[str, str]], after: datetime.timedelta = datetime.timedelta()
) -> None:
    """Records objects, each given by its tenant's id and its storage key, for deletion once the time `after` has
    passed."""
    due = {"due_at": database_now(session) + after} if after else {}  # the database's default is its current time
    rows = [{"tenant_id": tenant, "object_key": key, **due} for tenant, key in objects]
    if rows:
        session.execute(insert(DiscardedObject), rows)


def discard(session: Session, objects: Sequence[tuple[str, str, str, int]]) -> None:
    """Records stored objects, as (domain id, tenant id, storage key, size in bytes), for deletion, and subtracts their
    sizes from the domains' stored bytes."""
    record(session, [(tenant, key) for _, tenant, key, _ in objects])
    sizes: Counter[str] = Counter()
    for domain, _, _, size in objects:
        sizes[domain] += size
    for domain, size in sorted(sizes.items()):  # always in the same order: otherwise two workers could deadlock
        metering.add_stored_bytes(session, domain, -size)


def remove_page(database: Database, store: ObjectStore) -> int:
    """Deletes up to `_PAGE` recorded objects that are due, and returns their number. Locks no database row during calls
    to the object store. Any number of workers may call it concurrently. Raises StorageUnavailable,
    DatabaseUnavailable."""
    with database.session(SYSTEM) as session:
        now = database_now(session)
        due = (
            select(DiscardedObject.id, DiscardedObject.object_key)
            .where(DiscardedObject.due_at <= now)
            .order_by(DiscardedObject.due_at)
            .limit(_PAGE)
            .with_for_update(skip_locked=True)
        )
        keys = {row.id: row.object_key for row in session.execute(due)}
        session.execute(update(DiscardedObject).where(DiscardedObject.id.in_(keys)).values(due_at=now + _CLAIM))
    if not keys:
        return 0
    store.delete(list(keys.values()))
    with database.session(SYSTEM) as session:
        session.execute(delete(DiscardedObject).where(DiscardedObject.id.in_(keys)))
    return len(keys)
