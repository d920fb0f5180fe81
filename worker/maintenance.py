"""Periodic chores of every worker: reports that the worker is alive, requeues the jobs of lost workers, wakes threads
for jobs whose message was lost or whose retry is due, deletes the stored objects of deleted database rows, and more.
Many workers may run the same chores at once."""

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
    """Thread that runs the chores of one worker, and a second thread that checks the device."""

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
        """Checks the device periodically. Runs on its own thread, so that a hanging device does not keep the chores
        from running."""
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
        except Exception:  # an error in one chore must not stop the other chores
            logger.exception("%s failed", chore.__name__)

    def _reap(self) -> None:
        """Requeues the jobs of lost workers. Pauses for the duration of a lease after the database was unavailable,
        since all workers missed heartbeats during that time, without being lost."""
        if time.monotonic() < self._reaps_at:
            return
        context = self.context
        for model in jobs.KINDS:
            with context.database.session() as session:
                jobs.reap(session, context.dispatcher, model, context.settings.max_attempts, context.leases.held())

    def _remove_objects(self) -> None:
        deletions.advance(self.context.database, self.context.store)

    def _orphans(self) -> None:
        """Deletes orphans, objects that no database row references, in the next page of the object store. Starts again
        at the store's beginning `orphan_seconds` / 2 after reaching its end."""
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
