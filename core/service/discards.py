"""Objects whose rows are gone: recorded in the transaction that removes the row, deleted from the store afterwards.

If a worker is lost between the two, another one continues from the record; a missing object is not an error. So no
object is deleted while its row may exist, and none stays after its row is gone.
"""

import datetime
import logging
from collections.abc import Iterable

from sqlalchemy import delete, insert, select, update
from sqlalchemy.orm import Session

from core.service.db.models import DiscardedObject
from core.service.db.session import Database, database_now
from core.service.storage import ObjectStore
from core.service.tenancy import SYSTEM

logger = logging.getLogger(__name__)
_PAGE = 500
_CLAIM = datetime.timedelta(minutes=5)
"""Time in which a page must be deleted, before another worker takes it up."""


def record(
    session: Session, objects: Iterable[tuple[str, str]], after: datetime.timedelta = datetime.timedelta()
) -> None:
    """Records objects, each a tenant's id and a key, to be deleted `after` a while."""
    due = {"due_at": database_now(session) + after} if after else {}  # the database's default is its own time
    rows = [{"tenant_id": tenant, "object_key": key, **due} for tenant, key in objects]
    if rows:
        session.execute(insert(DiscardedObject), rows)


def remove_page(database: Database, store: ObjectStore) -> int:
    """Deletes some of the due objects, and returns how many. No row is locked during calls to the store, and any number
    of workers may run this concurrently. Raises StorageUnavailable, DatabaseUnavailable."""
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
