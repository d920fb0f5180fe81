"""Sends events to tenants' webhooks. Polls the database twice a second for deliveries that are due."""

import logging
import threading
import time
from concurrent.futures import ThreadPoolExecutor

from prometheus_client import Counter

from core.artifact.errors import CoreError
from core.service.webhooks import deliveries, sending, signing
from core.service.webhooks.deliveries import Attempt, Outcome
from core.service.webhooks.places import Places
from core.service.webhooks.reachability import Reachability
from worker.context import Context

logger = logging.getLogger(__name__)
DELIVERIES = Counter(
    "difffit_webhook_deliveries", "Attempts to deliver an event to a tenant's webhook, by result", ["result"]
)
_LOOK_SECONDS = 0.5
_ANSWER_SECONDS = 10.0


class Webhooks:
    """Threads that send up to `webhook_threads` deliveries at once. Twice a second, an idle thread looks for deliveries
    that are due."""

    def __init__(self, context: Context) -> None:
        self.context = context
        threads = context.settings.webhook_threads
        self._idle = threading.Semaphore(threads)
        self._places = Places(max(1, threads))
        self._claiming = threading.Lock()
        self._reachability = Reachability()
        self._more = threading.Event()
        self._pool = ThreadPoolExecutor(max(1, threads), "webhook")
        self._thread = threading.Thread(target=self._run, name="webhooks", daemon=True)

    def start(self) -> None:
        if self.context.settings.webhook_threads:
            self._thread.start()

    def _run(self) -> None:
        while not self.context.stopping.is_set():
            self._more.wait(_LOOK_SECONDS)
            self._more.clear()
            if not self.context.stopping.is_set() and self._idle.acquire(blocking=False):
                self._pool.submit(self._work)

    def _work(self) -> None:
        """Claims and sends deliveries until no delivery is due."""
        try:
            while not self.context.stopping.is_set():
                attempt = self._claim()
                if attempt is None:
                    return
                self._more.set()  # wakes another thread: more deliveries may be due
                try:
                    self._deliver(attempt)
                finally:
                    self._places.give_back(attempt.tenant_id)
        except CoreError as error:  # the delivery is tried again when its lease expires, after a minute
            logger.warning("webhooks wait: %s", error.detail)
        except Exception:
            logger.exception("a webhook's delivery was not settled")
        finally:
            self._idle.release()

    def _claim(self) -> Attempt | None:
        """Claims the next delivery that is due, or returns None. Only one thread claims at a time, so that no tenant
        gets more than its part of the threads."""
        with self._claiming:
            with self.context.database.session() as session:
                attempt = deliveries.claim(session, self._places.full())
            if attempt is not None:
                self._places.take(attempt.tenant_id)
        return attempt

    def _deliver(self, attempt: Attempt) -> None:
        outcome = send(attempt, allow_private=self.context.settings.webhooks_allow_private)
        self._reachability.note(attempt.tenant_id, outcome.code)
        is_ours = self._reachability.is_ours(attempt.tenant_id, outcome.code)
        with self.context.database.session() as session:
            deliveries.settle(session, attempt, outcome, is_ours=is_ours)
        DELIVERIES.labels(outcome.code or "taken").inc()


def send(attempt: Attempt, *, allow_private: bool, seconds: float = _ANSWER_SECONDS) -> Outcome:
    """Sends one delivery by HTTP and returns the outcome, which includes all errors. Uses no database session."""
    headers = {
        "Content-Type": "application/json",
        "User-Agent": "DiffFit-Webhooks/1",
        **signing.headers(attempt.id, int(attempt.claimed_at.timestamp()), attempt.body, attempt.secrets),
    }
    started = time.monotonic()
    try:
        body = attempt.body.encode()
        tenant = attempt.tenant_id
        status = sending.post(attempt.url, headers, body, tenant=tenant, allow_private=allow_private, seconds=seconds)
    except CoreError as error:
        return Outcome(time.monotonic() - started, None, error.code, error.detail)
    except Exception:  # a bug must not make the delivery due again forever
        logger.exception("%s failed", attempt.id)
        return Outcome(
            time.monotonic() - started,
            None,
            "internal_error",
            "Sending failed inside the service. It will be tried again.",
        )
    taken = time.monotonic() - started
    if 200 <= status < 300:
        return Outcome(taken, status)
    return Outcome(taken, status, "refused", f"The receiver answered {status}.")
