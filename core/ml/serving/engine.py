"""The loop that owns the device: it serves images and runs fine-tunes on one resident base.

Every step runs on this one thread. Others submit and wait on a future. Adapters come from the cache's threads, and
finished latents go to the decoder's.

Errors have three ranks. A request's own error (its adapter, its listener, its numbers) fails that request. Memory that
ran out makes batches smaller. An error of the device, or one that nobody foresaw in the loop itself, is the engine's
death: every future fails with DeviceLost, and `on_death` is called so that the process ends and its jobs go elsewhere.
"""

import logging
import threading
import time
from collections.abc import Callable, Collection
from concurrent.futures import Future
from dataclasses import asdict
from functools import partial
from typing import Any

from core.artifact.errors import EngineStopped
from core.ml.model.device import use_device
from core.ml.serving.cache import AdapterCache, Load
from core.ml.serving.counters import Counters
from core.ml.serving.generations import Generations
from core.ml.serving.inbox import Inbox
from core.ml.serving.request import Drawn, ImageRequest
from core.ml.serving.runner import Runner
from core.ml.serving.tickets import Ticket
from core.ml.serving.trainings import Training, Trainings, Work

logger = logging.getLogger(__name__)

IDLE_SECONDS = 1.0
"""Maximum seconds between two turns of the loop, so that `last_turn` shows whether it is alive."""
CAPTURE_PAUSE_SECONDS = 0.05
"""Silence before a batch size is captured ahead: a request that comes with the start does not wait for a capture."""
DEAD_THREAD_SECONDS = 5.0
"""Time that `stop` waits for a thread that may hang in a call to a lost device."""


class Engine:
    """The thread of a device. Each turn is a step of images or a slice of a fine-tune, which other threads submit.

    `training_share` is the minimum fraction of device time for training while both have work. The engine accepts up to
    `max_waiting` images, those in flight included. Raises ValueError when a step could hold more adapters than the bank
    has slots.

    `on_death` is called once, on the loop's thread, with the error of a lost device or of the loop itself: before any
    future fails, so that no new work is claimed for what fails. It must be quick, and must not call `stop`.
    """

    def __init__(
        self,
        runner: Runner,
        cache: AdapterCache,
        *,
        max_rows: int,
        max_waiting: int,
        training_share: float,
        on_death: Callable[[BaseException], None] = lambda _: None,
    ) -> None:
        if runner.bank.slots < max_rows:
            raise ValueError(f"{max_rows} rows may have as many adapters, but there are {runner.bank.slots} slots")
        self.runner, self.cache, self.bank, self.on_death = runner, cache, runner.bank, on_death
        self.counters = Counters()
        self.last_turn = time.monotonic()
        """Time of the loop's last turn, on time.monotonic()'s clock."""
        self._inbox = Inbox()
        self.generations = Generations(
            runner, cache, self._inbox, self.counters, max_rows=max_rows, max_images=max_waiting
        )
        self.trainings = Trainings(training_share, partial(self._inbox.post_unless_ended, lambda: None))
        self._thread = threading.Thread(target=self._loop, name="engine", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Ends the loop after its current slice. Unfinished work fails with EngineStopped, to be requeued. After a lost
        device it does not wait for hanging threads."""
        self._inbox.end()
        timeout = None if self._inbox.ending is EngineStopped else DEAD_THREAD_SECONDS
        self._thread.join(timeout)
        self.generations.decoder.close(timeout)
        self.cache.close(wait=timeout is None)

    def check(self, timeout: float) -> None:
        """Makes the loop compute something small on the device. Raises DeviceLost, EngineStopped, TimeoutError."""
        self._inbox.run(self.runner.check, timeout)

    def submit(
        self,
        request: ImageRequest,
        load: Load | None = None,
        *,
        on_step: Callable[[float], None] = lambda _: None,
        on_preview: Callable[[int, int, Any], None] = lambda *_: None,
    ) -> "Future[Drawn]":
        """Returns a future of the request's images. `load` returns its adapter when the host cache does not have it; it
        runs on a thread of the cache while the request waits.

        The future fails with what `load` or a listener raised, QueueFull, DeadlineExceeded, IndexError (no such class),
        DrawingDiverged, Cancelled, EngineStopped or DeviceLost. Raises EngineStopped or DeviceLost at once after the
        engine's end, ValueError for a request with an adapter and without `load`.
        """
        if request.adapter is not None and load is None:
            raise ValueError("a request with an adapter needs a way to load it")
        ticket = Ticket(request, on_step, on_preview)
        self._inbox.post(partial(self.generations.accept, ticket, load), partial(self.generations.end, ticket))
        return ticket.future

    def cancel(self, request_id: str) -> None:
        """Cancels a request. Its batch rows leave before the next step."""
        self._inbox.post(partial(self.generations.cancel, request_id))

    def forget(self, digests: Collection[str], timeout: float = 60.0) -> None:
        """Drops adapters that were deleted from the host and the device, and returns when they are gone. A request in
        flight with such an adapter brings it back: cancel it. Raises EngineStopped, TimeoutError."""

        def forget() -> None:
            for digest in digests:
                self.cache.forget(digest)
                self.bank.forget(digest)

        self._inbox.run(forget, timeout)

    def train(self, work: Work, on_event: Callable[[Any], None]) -> Training:
        """Runs `work` slice by slice; its return value resolves the future. Several take turns. Raises EngineStopped
        or DeviceLost after the engine's end."""
        training = Training(work, on_event)
        self._inbox.post(lambda: self.trainings.add(training), training.fail)
        return training

    def stats(self) -> dict[str, float]:
        """Returns counters since the start, and current gauges."""
        forwards, cache = self.runner.forwards, self.cache
        return asdict(self.counters) | {
            "forward_seconds": forwards.seconds,
            "padded_rows": forwards.padded_rows,
            "out_of_memory": forwards.out_of_memory,
            "activations": self.bank.copies,
            "cache_hits": cache.hits,
            "cache_misses": cache.misses,
            "load_seconds": cache.load_seconds,
            "adapters_on_device": len(self.bank.resident),
            "adapters_on_host": len(cache.resident),
            "host_bytes": cache.bytes,
            "waiting_images": self.generations.tickets.images,
            "turn_age_seconds": time.monotonic() - self.last_turn,
        }

    def _loop(self) -> None:
        try:
            use_device(self.runner.device)
            while self._wait_for_work():
                self._turn()
        except BaseException as error:
            self._die(error)
        if self._inbox.ending is not None:
            self.generations.stop(self._inbox.ending)
            self._inbox.fail_all(self._inbox.ending)
            self.trainings.stop(self._inbox.ending())

    def _turn(self) -> None:
        self._inbox.read()
        self.generations.end_late()
        is_serving = not self.generations.scheduler.idle
        if self.trainings.due(serving=is_serving):
            self.trainings.took(training=self.counters.timed("training_seconds", self.trainings.step))
        elif is_serving:
            self.trainings.took(serving=self.counters.timed("step_seconds", self.generations.step))
        elif self.runner.forwards.uncaptured:
            self.runner.forwards.capture_next()

    def _wait_for_work(self) -> bool:
        """Waits for work or the next deadline. Returns False when the engine ends."""
        self.last_turn = time.monotonic()
        if self.trainings.is_ready or not self.generations.scheduler.idle:
            return self._inbox.wait(0)
        pause = CAPTURE_PAUSE_SECONDS if self.runner.forwards.uncaptured else IDLE_SECONDS
        return self._inbox.wait(min(pause, self.generations.tickets.next_deadline - self.last_turn))

    def _die(self, error: BaseException) -> None:
        logger.critical("the engine ends: its device or its loop failed", exc_info=error)
        self._inbox.end(error)
        try:
            self.on_death(error)
        except BaseException:
            logger.exception("the listener of the engine's death failed")
