"""What every worker does beside its tasks: tells that it lives, hands back the rows of lost workers, sends lost
messages again, removes the objects of deleted rows. All of it may run in many workers at once."""

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from core import idempotency, jobs, orphans
from core.db.models import Dataset, Deletion, Finetune, Generation
from core.db.session import database_now
from core.errors import CoreError
from core.finetunes import service as finetunes
from worker.context import Context

logger = logging.getLogger(__name__)
JOBS: tuple[type[Any], ...] = (Dataset, Finetune, Generation)


class Maintenance:
    """One thread a worker."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self._orphans_after = ""
        self._orphans_at = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="maintenance", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def _run(self) -> None:
        interval = self.context.settings.reaper_seconds
        while not self.context.stopping.wait(min(interval, 5.0)):
            for chore in (
                self.context.report,
                self._reap,
                self._sweep,
                self._remove_objects,
                self._orphans,
                self._expire,
            ):
                self._try(chore)

    def _try(self, chore: Callable[[], None]) -> None:
        try:
            chore()
        except CoreError as error:
            logger.warning("%s failed: %s", chore.__name__, error.detail)
        except Exception:  # one chore's error must not end the others
            logger.exception("%s failed", chore.__name__)

    def _reap(self) -> None:
        context = self.context
        for model in JOBS:
            with context.database.session() as session:
                for job in jobs.reap(session, context.dispatcher, model, context.settings.max_attempts):
                    _tell(session, job)

    def _sweep(self) -> None:
        context = self.context
        for model in JOBS:
            with context.database.session() as session:
                jobs.sweep(session, context.dispatcher, model, context.settings.reaper_seconds)

    def _remove_objects(self) -> None:
        with self.context.database.session() as session:
            waiting = list(session.execute(select(Deletion).where(Deletion.done_at.is_(None)).limit(20)).scalars())
        for deletion in waiting:
            count = self.context.store.delete_prefix(deletion.prefix)
            logger.info("removed %d objects under %s", count, deletion.prefix)
            with self.context.database.session() as session:
                row = session.get(Deletion, deletion.id)
                if row is not None:
                    row.done_at = database_now(session)

    def _orphans(self) -> None:
        """A page of the store at a time, from its beginning again in every half of the time that makes an orphan."""
        if time.monotonic() < self._orphans_at:
            return
        context, seconds = self.context, self.context.settings.orphan_seconds
        self._orphans_after = orphans.remove_page(context.database, context.store, self._orphans_after, seconds)
        if not self._orphans_after:
            self._orphans_at = time.monotonic() + seconds / 2

    def _expire(self) -> None:
        with self.context.database.session() as session:
            idempotency.expire(session)


def _tell(session: Session, job: Dataset | Finetune | Generation) -> None:
    """Listeners of a fine-tune hear how it ended."""
    if isinstance(job, Finetune):
        finetunes.add_event(session, job, "status", {"status": job.status})
