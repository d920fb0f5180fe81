"""Retention: removes rows older than their setting, in steps so small that nobody waits for one.

Each rule looks its oldest rows up by an index, removes some of them in one transaction, and records their objects for
`core.service.discards`. A step that takes long makes the next ones smaller. A rule's first step touches no row:
SQLAlchemy compiles a process's first statements for up to 0.4 s on a busy machine, which locks must not wait for. Rows
that another worker is at are skipped, so that any number of workers may sweep.
"""

import datetime
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from sqlalchemy.orm import Session

from core.service import discards, expiry
from core.service.config import Settings
from core.service.db.session import Database, database_now
from core.service.storage import ObjectStore
from core.service.tenancy import SYSTEM

logger = logging.getLogger(__name__)
Step = Callable[[Session, datetime.datetime, int], int]
"""Removes what is older than a time, at most so many rows. Returns the count of rows that it found."""

_FEWEST_ROWS, _MOST_ROWS = 10, 500
_STEP_SECONDS = 0.015
"""Target duration of a step, so that none takes 0.1 s even on a busy database."""
_REST_SECONDS = 60.0
"""Pause before a rule that found nothing more looks again."""


@dataclass
class _Rule:
    name: str
    step: Step
    age: datetime.timedelta
    rows: int = 0
    due_at: float = field(default=0.0)


class Retention:
    """The sweeps of one worker."""

    def __init__(self, database: Database, store: ObjectStore, settings: Settings) -> None:
        self.database, self.store = database, store
        self._rules = _rules(settings)

    def sweep(self, seconds: float = 1.0) -> int:
        """Sweeps for about `seconds`, and returns how many rows it removed. Rests half of the time, so that others can
        use the database. Raises StorageUnavailable, DatabaseUnavailable."""
        until, removed = time.monotonic() + seconds, 0
        for rule in self._rules:
            while rule.due_at <= time.monotonic() < until:
                removed += self._step(rule)
        while time.monotonic() < until and discards.remove_page(self.database, self.store):
            pass
        return removed

    def _step(self, rule: _Rule) -> int:
        started, rows = time.monotonic(), rule.rows
        with self.database.session(SYSTEM) as session:
            step = rule.step(session, database_now(session) - rule.age, rows)
        taken = time.monotonic() - started
        rule.rows = max(_FEWEST_ROWS, min(_MOST_ROWS, int(rows * _STEP_SECONDS / max(taken, _STEP_SECONDS / 2))))
        if step < rows:
            rule.due_at = time.monotonic() + _REST_SECONDS
        if step:
            logger.debug("retention of %s: %d rows in %.3f s", rule.name, step, taken)
            time.sleep(taken)
        return step


def _rules(settings: Settings) -> list[_Rule]:
    """Returns the rules whose setting is not None, and the rules without a setting."""
    days: list[tuple[str, Step, float | None]] = [
        ("images", expiry.images, settings.keep_image_days),
        ("generations", expiry.generations, settings.keep_generation_days),
        ("previews", expiry.previews, settings.keep_preview_days),
        ("samples", expiry.samples, settings.keep_sample_days),
        ("fine-tune events", expiry.finetune_events, settings.keep_event_days),
        ("checkpoints", expiry.checkpoints, settings.keep_checkpoint_days),
        ("rejected archives", expiry.rejected_archives, settings.keep_rejected_days),
        ("webhook deliveries", expiry.deliveries, settings.keep_delivery_days),
        ("audit entries", expiry.audit_entries, settings.keep_audit_days),
        ("receipts", expiry.receipts, settings.keep_receipt_days),
        ("usage", expiry.usage_days, settings.keep_usage_days),
        ("idempotency keys", expiry.idempotency_keys, 1),
        ("lost workers", expiry.lost_workers, 1),
    ]
    return [_Rule(name, step, datetime.timedelta(days=number)) for name, step, number in days if number is not None]
