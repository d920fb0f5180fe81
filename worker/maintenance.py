"""Chores of every worker: reports that it lives, requeues the rows of lost workers, looks for rows whose message was
lost or whose delay is over, removes the objects of deleted rows. All of it may run in many workers at once."""

import logging
import threading
import time
from collections.abc import Callable

from core.artifact.errors import CoreError
from core.service import deletions, jobs, orphans
from core.service.datasets import uploads
from core.service.db.clock import check_clock
from core.service.errors import DatabaseUnavailable
from core.service.retention import Retention
from worker.context import Context
from worker.runner import Runner

logger = logging.getLogger(__name__)
_CLOCK_SECONDS = 600.0


class Maintenance:
    """One thread per worker, and one that watches its device."""

    def __init__(self, context: Context, runner: Runner) -> None:
        self.context, self.runner = context, runner
        self._orphans_after = ""
        self._orphans_at = self._clock_at = self._reaps_at = time.monotonic()
        self._retention = Retention(context.database, context.store, context.settings)
        self._thread = threading.Thread(target=self._run, name="maintenance", daemon=True)

    def start(self) -> None:
        self._thread.start()
        threading.Thread(target=self._watch, name="watch", daemon=True).start()

    def _watch(self) -> None:
        """Runs on a separate thread, so that a hanging device cannot keep the worker from reporting."""
        while not self.context.stopping.wait(self.context.settings.heartbeat_seconds):
            self._try(self.context.watch_device)

    def _run(self) -> None:
        interval = self.context.settings.reaper_seconds
        while not self.context.stopping.wait(min(interval, 5.0)):
            for chore in (
                self.context.evict,
                self.context.report,
                self._reap,
                self.runner.wake_all,
                self._remove_objects,
                self._orphans,
                self._expire,
                self._retain,
                self._clock,
            ):
                self._try(chore)

    def _try(self, chore: Callable[[], None]) -> None:
        try:
            chore()
        except DatabaseUnavailable as error:
            logger.warning("%s failed: %s", chore.__name__, error.detail)
            self._reaps_at = time.monotonic() + self.context.settings.lease_seconds
        except CoreError as error:
            logger.warning("%s failed: %s", chore.__name__, error.detail)
        except Exception:  # one chore's error must not end the others
            logger.exception("%s failed", chore.__name__)

    def _reap(self) -> None:
        """Waits for a lease's time after the database did not answer: every worker was late with its heartbeats then,
        and none of them is lost for that."""
        if time.monotonic() < self._reaps_at:
            return
        context = self.context
        for model in jobs.KINDS:
            with context.database.session() as session:
                jobs.reap(session, context.dispatcher, model, context.settings.max_attempts, context.leases.held())

    def _remove_objects(self) -> None:
        deletions.advance(self.context.database, self.context.store)

    def _orphans(self) -> None:
        """A page of the store at a time, from its beginning again in every half of the time that makes an orphan."""
        if time.monotonic() < self._orphans_at:
            return
        context, seconds = self.context, self.context.settings.orphan_seconds
        self._orphans_after = orphans.remove_page(context.database, context.store, self._orphans_after, seconds)
        if not self._orphans_after:
            self._orphans_at = time.monotonic() + seconds / 2

    def _clock(self) -> None:
        if time.monotonic() < self._clock_at:
            return
        with self.context.database.session() as session:
            check_clock(session)
        self._clock_at = time.monotonic() + _CLOCK_SECONDS

    def _expire(self) -> None:
        with self.context.database.session() as session:
            forgotten = uploads.expire(session)
        for upload in forgotten:
            logger.info("the upload %s was not completed in time", upload.id)
            uploads.drop(self.context.store, upload)

    def _retain(self) -> None:
        self._retention.sweep()
