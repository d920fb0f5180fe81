"""Retention: deletes database rows that are older than a setting, with their stored objects. Works in small steps, so
that no request waits for long.

There is one rule per kind of row. A step of a rule finds the oldest rows by an index, deletes some of them in one
transaction, and records their objects for deletion by `core.service.discards`. A slow step makes the rule's next step
smaller. The first step of each rule has a limit of 0 rows: SQLAlchemy compiles a process's first statements for up to
0.4 s on a busy machine, and rows must not stay locked for that time. Rows that another transaction has locked are
skipped, so that any number of workers may sweep concurrently.
"""

import datetime
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from sqlalchemy.orm import Session

from core.service import discards, expiry
from core.service.config import Settings
from core.service.db.session import Database, database_now
from core.service.storage import ObjectStore
from core.service.tenancy import SYSTEM

logger = logging.getLogger(__name__)
Step = Callable[[Session, datetime.datetime, int], int]
"""Function of `core.service.expiry`: takes a session, the time before which rows are too old, and the max number of
rows; returns the number of rows that it found."""

_FEWEST_ROWS, _MOST_ROWS = 10, 500
_STEP_SECONDS = 0.015
"""Target duration of a step, so that no step takes more than 0.1 s even on a busy database."""
_REST_SECONDS = 60.0
"""Time after which a rule looks for due rows again when its last step found fewer than its limit."""


@dataclass
class _Rule:
    name: str
    step: Step
    age: datetime.timedelta
    rows: int = 0
    due_at: float = field(default=0.0)


class Retention:
    """Runs the retention rules in one worker."""

    def __init__(self, database: Database, store: ObjectStore, settings: Settings) -> None:
        self.database, self.store = database, store
        self._rules = _rules(settings)

    def sweep(self, seconds: float = 1.0) -> int:
        """Runs all rules that are due, and deletes discarded objects, for about `seconds`. Returns the number of rows
        that the rules handled. Sleeps as long after each step as the step took, so that it uses the database half of
        the time at most. Raises StorageUnavailable, DatabaseUnavailable."""
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
    """Returns the retention rules, except those that are turned off because their setting is None."""
    days: list[tuple[str, Step, float | None]] = [
        ("images", partial(expiry.images, keep_favourites=not settings.expire_favourites), settings.keep_image_days),
        ("images of domains", expiry.images_of_domains, 0),
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
