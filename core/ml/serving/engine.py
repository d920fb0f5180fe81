"""The loop that owns the device: it serves rows and runs fine-tunes on one resident base.

Every step runs on this one thread. Others submit and wait on a future. Adapters come from the cache's threads, and
finished latents go to the decoder's.

Errors have three ranks. A request's own error (its adapter, its listener, its numbers) fails that request. Memory that
ran out makes batches smaller. An error of the device, or one that nobody foresaw in the loop itself, is the engine's
death: every future fails with DeviceLost, and `on_death` is called so that the process ends and its jobs go elsewhere.
"""

import heapq
import logging
import threading
import time
from collections.abc import Callable, Collection
from concurrent.futures import Future
from dataclasses import asdict
from functools import partial
from typing import Any

from torch import Tensor

from core.artifact.errors import Cancelled, CoreError, EngineStopped, QueueFull
from core.ml.errors import DeadlineExceeded
from core.ml.model.bank import FoldedAdapter
from core.ml.model.device import is_lost, use_device
from core.ml.serving.cache import AdapterCache, Load, own_copy
from core.ml.serving.counters import Counters
from core.ml.serving.decoder import Decoder, OnDecoded
from core.ml.serving.inbox import Inbox, run_guarded
from core.ml.serving.request import Drawn, ImageRequest, Row, Ticket
from core.ml.serving.runner import Runner
from core.ml.serving.scheduler import Scheduler
from core.ml.serving.trainings import Training, Trainings, Work

logger = logging.getLogger(__name__)

IDLE_SECONDS = 1.0
"""Maximum seconds between two turns of the loop, so that `last_turn` shows whether it is alive."""
CAPTURE_PAUSE_SECONDS = 0.05
"""Silence before a batch size is captured ahead: a request that comes with the start does not wait for a capture."""
DEAD_THREAD_SECONDS = 5.0
"""Time that `stop` waits for a thread that may hang in a call to a lost device."""


class Engine:
    """Serves image requests in one batch and gives training the time that serving leaves.

    `training_share` is the minimum fraction of device time for training while both have work. `max_waiting`
    images may be in here, those in flight included. Raises ValueError when a step could hold more adapters than the
    bank has slots.

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
        self.runner, self.cache, self.bank = runner, cache, runner.bank
        self._inbox = Inbox()
        self.scheduler = Scheduler(max_rows)
        self.trainings = Trainings(training_share, partial(self._inbox.post_unless_ended, lambda: None))
        self.max_waiting = max_waiting
        self.on_death = on_death
        self.counters = Counters()
        self.last_turn = time.monotonic()
        """Time of the loop's last turn, on time.monotonic()'s clock."""
        self._tickets: dict[str, Ticket] = {}
        self._adapters: dict[str, FoldedAdapter | None] = {}
        self._deadlines: list[tuple[float, str]] = []
        self._waiting = 0
        self._to_decode: list[tuple[Tensor, OnDecoded]] = []
        """Latents of the step that the device makes, and where their pixels go."""
        self._decoder = Decoder(runner.decode, runner.pixels.sizes[-1])
        self._thread = threading.Thread(target=self._loop, name="engine", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Ends the loop after its current slice. Unfinished work fails with EngineStopped, to be requeued. After a lost
        device it does not wait for hanging threads."""
        self._inbox.end()
        timeout = None if self._inbox.ending is EngineStopped else DEAD_THREAD_SECONDS
        self._thread.join(timeout)
        self._decoder.close(timeout)
        self.cache.close(wait=timeout is None)

    def check(self, timeout: float) -> None:
        """Makes the loop compute something small on the device. Raises DeviceLost, EngineStopped, TimeoutError."""
        checked: Future[None] = Future()

        def check() -> None:
            self.runner.check()
            checked.set_result(None)

        self._inbox.post(check, checked.set_exception)
        checked.result(timeout)

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
        self._inbox.post(lambda: self._accept(ticket, load), partial(self._end_ticket, ticket))
        return ticket.future

    def cancel(self, request_id: str) -> None:
        """Cancels a request. Its batch rows leave before the next step."""
        self._inbox.post(lambda: self._end(request_id, Cancelled()))

    def forget(self, digests: Collection[str], timeout: float = 60.0) -> None:
        """Drops adapters that were deleted from the host and the device, and returns when they are gone. A request in
        flight that draws with one brings it back: it is for the caller to cancel. Raises EngineStopped, TimeoutError.
        """
        forgotten: Future[None] = Future()

        def forget() -> None:
            for digest in digests:
                self.cache.forget(digest)
                self.bank.forget(digest)
            forgotten.set_result(None)

        self._inbox.post(forget, forgotten.set_exception)
        forgotten.result(timeout)

    def train(self, work: Work, on_event: Callable[[Any], None]) -> Training:
        """Runs `work` slice by slice; its return value resolves the future. Several take turns. Raises EngineStopped
        or DeviceLost after the engine's end."""
        training = Training(work, on_event)
        self._inbox.post(lambda: self.trainings.add(training), training.fail)
        return training

    def stats(self) -> dict[str, float]:
        """Returns counters since the start, and current gauges."""
        runner, cache = self.runner, self.cache
        return asdict(self.counters) | {
            "forward_seconds": runner.forward_seconds,
            "padded_rows": runner.padded_rows,
            "out_of_memory": runner.out_of_memory,
            "activations": self.bank.copies,
            "cache_hits": cache.hits,
            "cache_misses": cache.misses,
            "load_seconds": cache.load_seconds,
            "adapters_on_device": len(self.bank.resident),
            "adapters_on_host": len(cache.resident),
            "host_bytes": cache.bytes,
            "waiting_images": self._waiting,
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
            self._fail_everything(self._inbox.ending)

    def _turn(self) -> None:
        self._inbox.read()
        self._end_what_is_late()
        if self.trainings.due(serving=not self.scheduler.idle):
            self.trainings.took(training=self.counters.timed("training_seconds", self.trainings.step))
        elif not self.scheduler.idle:
            self.trainings.took(serving=self.counters.timed("step_seconds", self._serve_step))
        elif self.runner.has_uncaptured:
            self.runner.capture_next()

    def _wait_for_work(self) -> bool:
        """Runs one turn. Returns False when the engine ends."""
        self.last_turn = time.monotonic()
        if self.trainings.is_ready or not self.scheduler.idle:
            return self._inbox.wait(0)
        late = self._deadlines[0][0] - self.last_turn if self._deadlines else IDLE_SECONDS
        return self._inbox.wait(min(late, CAPTURE_PAUSE_SECONDS if self.runner.has_uncaptured else IDLE_SECONDS))

    def _die(self, error: BaseException) -> None:
        logger.critical("the engine ends: its device or its loop failed", exc_info=error)
        self._inbox.end_by(error)
        try:
            self.on_death(error)
        except BaseException:
            logger.exception("the listener of the engine's death failed")

    def _accept(self, ticket: Ticket, load: Load | None) -> None:
        request = ticket.request
        if request.id in self._tickets:
            raise ValueError(f"there is a request '{request.id}' already")
        if self._waiting + len(request.seeds) > self.max_waiting:
            raise QueueFull(self._waiting, self.max_waiting)
        self._tickets[request.id] = ticket
        self._waiting += len(request.seeds)
        if request.deadline is not None:
            heapq.heappush(self._deadlines, (request.deadline, request.id))
        if request.adapter is None or load is None:
            self._enqueue(ticket, None)
            return
        loading = self.cache.get(request.adapter, load)
        if loading.done():
            self._on_loaded(ticket, loading)
        else:
            loading.add_done_callback(
                lambda done: self._inbox.post_unless_ended(
                    lambda: self._on_loaded(ticket, done), partial(self._end_ticket, ticket)
                )
            )

    def _on_loaded(self, ticket: Ticket, loading: "Future[FoldedAdapter]") -> None:
        """Starts a request whose adapter was loaded. Raises the loading's error."""
        if self._tickets.get(ticket.request.id) is not ticket:  # the request has ended meanwhile
            return
        error = loading.exception()
        if isinstance(error, CoreError):
            raise own_copy(error)
        self._enqueue(ticket, loading.result())

    def _enqueue(self, ticket: Ticket, adapter: FoldedAdapter | None) -> None:
        ticket.reached("loading")
        self._adapters[ticket.request.id] = adapter
        self.scheduler.add(ticket.request)

    def _end_what_is_late(self) -> None:
        now = time.monotonic()
        while self._deadlines and self._deadlines[0][0] <= now:
            self._end(heapq.heappop(self._deadlines)[1], DeadlineExceeded())

    def _serve_step(self) -> None:
        """Makes one step of serving. The host's work happens while the device computes; finished images are decoded."""
        rows = self._step_rows(self._start_rows(self.scheduler.next_rows()))
        if not rows:
            return
        costs = [row.cost for row in rows]
        self.counters.stepped(rows, costs)
        finished = self.scheduler.advance(rows)
        for row, cost in zip(rows, costs, strict=True):
            if ticket := self._tickets.get(row.request.id):  # a listener of its first row may have failed it
                run_guarded(partial(self._report_step, ticket, row, cost), partial(self._end_ticket, ticket))
        for row in finished:
            if ticket := self._tickets.get(row.request.id):
                self._to_decode.append((self.runner.latent(row), self._decode_callback(ticket, row)))
            self.runner.end(row)
        self.runner.wait()
        for latent, on_decoded in self._to_decode:
            self._decoder.add(latent, on_decoded)
        self._to_decode.clear()

    def _start_rows(self, rows: list[Row]) -> list[Row]:
        """Returns the batch rows that could start. The others' requests fail: no such class."""
        for row in rows:
            if row.request.id in self._tickets and not self.runner.is_started(row):
                start = partial(self.runner.start, row, self._adapters[row.request.id])
                run_guarded(start, partial(self._end, row.request.id))
        return [row for row in rows if row.request.id in self._tickets]

    def _step_rows(self, rows: list[Row]) -> list[Row]:
        """Returns the batch rows that made a step. If the step fails, each request steps alone, so that only the faulty
        request fails. Raises DeviceLost when the device has failed."""
        if not rows:
            return []
        try:
            self.runner.step(rows)
        except Exception as error:
            if is_lost(error):
                raise
            logger.exception("a step of %d rows failed", len(rows))
            self.counters.failed_steps += 1
            failure = error
        else:
            return rows
        self.runner.check()
        requests = dict.fromkeys(row.request.id for row in rows)
        if len(requests) == 1:
            self._end(rows[0].request.id, failure)
            return []
        groups = [[row for row in rows if row.request.id == request] for request in requests]
        return [row for group in groups for row in self._step_rows(group)]

    def _report_step(self, ticket: Ticket, row: Row, cost: int) -> None:
        if "queued" not in ticket.timings:
            ticket.reached("queued")
            ticket.timings["activation"] = self.runner.activation_seconds
            self.counters.waited(ticket.timings["queued"])
        ticket.stepped(cost)
        if row.previewed:
            self._to_decode.append((self.runner.x0(row), _preview_callback(ticket, row)))

    def _decode_callback(self, ticket: Ticket, row: Row) -> OnDecoded:
        def on_decoded(image: Tensor | Exception) -> None:
            if isinstance(image, Exception):
                self._inbox.post_unless_ended(partial(_raise, image), partial(self._end_ticket, ticket))
            elif ticket.deliver(row.index, image):
                self._inbox.post_unless_ended(lambda: self._finish(ticket))

        return on_decoded

    def _finish(self, ticket: Ticket) -> None:
        self._forget(ticket)

    def _forget(self, ticket: Ticket) -> list[Row]:
        """Drops a request that has ended. Returns its rows that were still in flight."""
        request = ticket.request
        if self._tickets.get(request.id) is not ticket:
            return []
        del self._tickets[request.id]
        self._adapters.pop(request.id, None)
        self._waiting -= len(request.seeds)
        self.counters.images += len(ticket.images)
        self._deadlines = [entry for entry in self._deadlines if entry[1] != request.id]
        heapq.heapify(self._deadlines)
        return self.scheduler.remove(request)

    def _end(self, request_id: str, error: BaseException) -> None:
        if ticket := self._tickets.get(request_id):
            self._end_ticket(ticket, error)

    def _end_ticket(self, ticket: Ticket, error: BaseException) -> None:
        for row in self._forget(ticket):
            self.runner.end(row)
        ticket.fail(error)

    def _fail_everything(self, ending: Callable[[], EngineStopped]) -> None:
        """Fails all futures first, since the loop may have left its own tables in any state."""
        self._inbox.fail_all(ending)
        for ticket in self._tickets.values():
            ticket.fail(ending())
        self.trainings.stop(ending())
        for ticket in list(self._tickets.values()):
            self._end_ticket(ticket, ending())


def _preview_callback(ticket: Ticket, row: Row) -> OnDecoded:
    steps_made = row.position

    def on_decoded(image: Tensor | Exception) -> None:
        if not isinstance(image, Exception):  # preview failures are ignored
            ticket.on_preview(row.index, steps_made, image)

    return on_decoded


def _raise(error: Exception) -> None:
    raise error
