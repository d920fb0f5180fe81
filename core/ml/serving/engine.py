"""The engine's loop: one thread that makes all sampling and training steps on one device, with one base model.

Other threads submit requests and wait on a future. The threads of the adapter cache load adapters, and the decoder's
thread turns finished latents into pixels.

Errors are handled on three levels. An error that belongs to one request (a broken adapter, a failing callback, latents
that are not finite) fails that request. When memory runs out, batches become smaller. An error of the device, or an
unexpected error of the loop itself, ends the engine: every future fails with DeviceLost, and `on_death` is called, so
that the process ends and its jobs are requeued to other workers.
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
"""Max seconds that the loop sleeps without work, so that an old `last_turn` shows that the loop hangs."""
CAPTURE_PAUSE_SECONDS = 0.05
"""Idle seconds before the loop captures a CUDA graph in advance, so that a request that arrives right after the start
does not wait for a capture."""
DEAD_THREAD_SECONDS = 5.0
"""Seconds that `stop` waits for each thread after the device was lost, since a thread may hang in a device call."""


class Engine:
    """Serves images and runs fine-tunes on one device, from one thread. Each turn of its loop makes one sampling step
    of a batch of images, or one slice of a fine-tune.

    `training_share` is the min fraction of device time for training while there are images to generate too. The engine
    accepts up to `max_waiting` images, waiting or in progress. Raises ValueError when the adapter table has fewer slots
    than a step has rows (`max_rows`), since every row may use a different adapter.

    `on_death` is called once, on the loop's thread, with the error of a lost device or of the loop itself. It is called
    before any future fails, so that the process claims no new jobs by then. It must be quick, and must not call `stop`.
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
        """Start of the loop's last turn, as time.monotonic() gives it."""
        self._inbox = Inbox(runner.check)
        self.generations = Generations(
            runner, cache, self._inbox, self.counters, max_rows=max_rows, max_images=max_waiting
        )
        self.trainings = Trainings(training_share, partial(self._inbox.post_unless_ended, lambda: None), runner.check)
        self._thread = threading.Thread(target=self._loop, name="engine", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Ends the loop after its current step or slice. Unfinished requests and fine-tunes fail with EngineStopped, so
        that the caller can requeue them. If the device was lost, waits only `DEAD_THREAD_SECONDS` for each thread."""
        self._inbox.end()
        timeout = None if self._inbox.ending is EngineStopped else DEAD_THREAD_SECONDS
        self._thread.join(timeout)
        self.generations.decoder.close(timeout)
        self.cache.close(wait=timeout is None)

    def fail(self, error: BaseException) -> None:
        """Ends the loop after its current step or slice because another thread got `error` from the lost device.
        Unfinished requests and fine-tunes fail with DeviceLost. Does not call `on_death`."""
        self._inbox.end(error)

    def check(self, timeout: float) -> None:
        """Checks that loop and device work: waits until the loop has computed something small on the device. Raises
        TimeoutError after `timeout` seconds, DeviceLost or EngineStopped."""
        self._inbox.run(self.runner.check, timeout)

    def submit(
        self,
        request: ImageRequest,
        *loads: Load | None,
        on_step: Callable[[float, int], None] = lambda *_: None,
        on_preview: Callable[[int, int, Any], None] = lambda *_: None,
    ) -> "Future[Drawn]":
        """Submits a request and returns a future of its images. `loads` fetch the request's adapters, in the order of
        `ImageRequest.adapters`, if the host cache does not have them; they run on threads of the cache while the
        request waits. A request without adapters ignores them. `on_step` is called with the fraction of steps that are
        done and the model evaluations so far, `on_preview` with an image's index, the steps it has made, and its
        preview's pixels.

        The future fails with an exception that a load or one of the callbacks raised, with QueueFull, DeadlineExceeded,
        IndexError (an adapter has no such class), DrawingDiverged, Cancelled, EngineStopped or DeviceLost. `submit`
        itself raises EngineStopped or DeviceLost after the engine's end, and ValueError for a request that names an
        adapter but comes without its load.
        """
        given = [load for load in loads[: len(request.adapters)] if load is not None]
        if len(given) < len(request.adapters):
            raise ValueError("a request with adapters needs a way to load each of them")
        ticket = Ticket(request, on_step, on_preview)
        self._inbox.post(partial(self.generations.accept, ticket, given), partial(self.generations.end, ticket))
        return ticket.future

    def cancel(self, request_id: str) -> None:
        """Cancels a request: its future fails with Cancelled, and its images leave the batch before the next step.
        Raises EngineStopped or DeviceLost after the engine's end."""
        self._inbox.post(partial(self.generations.cancel, request_id))

    @property
    def adapters(self) -> set[str]:
        """Digests of the adapters in host or device memory, in use, or being loaded."""
        in_use = self.generations.adapters_in_use  # first, since a load that ends meanwhile is in the cache then
        return in_use.union(self.cache.resident, self.bank.resident)

    def forget(self, digests: Collection[str], timeout: float = 60.0) -> set[str]:
        """Drops deleted adapters, given by digest, from host and device memory. Returns the digests of those that
        may come back, since a request still uses or loads them: call it again after these requests. Raises
        EngineStopped, DeviceLost, or TimeoutError after `timeout` seconds."""
        in_use = set[str]()

        def forget() -> None:
            in_use.update(self.generations.adapters_in_use.intersection(digests))  # first, as in `adapters`
            for digest in digests:
                self.cache.forget(digest)
                self.bank.forget(digest)

        self._inbox.run(forget, timeout)
        return in_use

    def train(self, work: Work, on_event: Callable[[Any], None]) -> Training:
        """Starts a fine-tune: the loop runs `work` one slice at a time, in turn with other fine-tunes, and calls
        `on_event` with each event that `work` yields. The returned object's future resolves to the return value of
        `work`. Raises EngineStopped or DeviceLost after the engine's end."""
        training = Training(work, on_event)
        self._inbox.post(lambda: self.trainings.add(training), training.fail)
        return training

    def stats(self) -> dict[str, float]:
        """Returns metrics by name: counters since the engine's start, and current values such as `waiting_images`."""
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
            self._settle()
            self.trainings.took(training=self.counters.timed("training_seconds", self.trainings.step))
        elif is_serving:
            ahead = self.runner.device.type == "cuda" and not self.trainings.is_ready
            step = partial(self.generations.step, ahead=ahead)
            self.trainings.took(serving=self.counters.timed("step_seconds", step))
        elif self.runner.forwards.uncaptured:
            self._settle()
            self.runner.forwards.capture_next()

    def _settle(self) -> None:
        self.trainings.took(serving=self.counters.timed("step_seconds", self.generations.settle))

    def _wait_for_work(self) -> bool:
        """Waits until there is work or a request's deadline has come, for at most `IDLE_SECONDS`. Returns False when
        the engine ends."""
        self.last_turn = time.monotonic()
        if self.trainings.is_ready or not self.generations.scheduler.idle:
            return self._inbox.wait(0)
        self._settle()
        pause = CAPTURE_PAUSE_SECONDS if self.runner.forwards.uncaptured else IDLE_SECONDS
        return self._inbox.wait(min(pause, self.generations.tickets.next_deadline - self.last_turn))

    def _die(self, error: BaseException) -> None:
        logger.critical("the engine ends: its device or its loop failed", exc_info=error)
        self._inbox.end(error)
        try:
            self.on_death(error)
        except BaseException:
            logger.exception("the listener of the engine's death failed")
