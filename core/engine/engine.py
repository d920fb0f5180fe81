"""The loop that owns the device: it serves rows and runs fine-tunes on one resident base.

Every step runs on this one thread. Others submit and wait on a future. Adapters come from the cache's threads, and
finished latents go to the decoder's.
"""

import heapq
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Collection
from concurrent.futures import Future
from dataclasses import asdict
from typing import Any

from torch import Tensor

from core.engine.cache import AdapterCache, Load
from core.engine.counters import Counters
from core.engine.decoder import Decoder
from core.engine.request import Drawn, ImageRequest, Row, Ticket
from core.engine.runner import Runner
from core.engine.scheduler import Scheduler
from core.engine.trainings import Training, Trainings, Work
from core.errors import Cancelled, DeadlineExceeded, EngineStopped, QueueFull
from core.model.bank import FoldedAdapter

logger = logging.getLogger(__name__)


class Engine:
    """Serves image requests in one batch and gives training the time that serving leaves.

    `training_share` is the part of the device's time that training gets at least while both have work. `max_waiting`
    images may be in here, those in flight included. Raises ValueError when a step could hold more adapters than the
    bank has slots.
    """

    def __init__(
        self, runner: Runner, cache: AdapterCache, *, max_rows: int, max_waiting: int, training_share: float
    ) -> None:
        if runner.bank.slots < max_rows:
            raise ValueError(f"{max_rows} rows may have as many adapters, but there are {runner.bank.slots} slots")
        self.runner, self.cache, self.bank = runner, cache, runner.bank
        self.scheduler = Scheduler(max_rows)
        self.trainings = Trainings(training_share)
        self.max_waiting = max_waiting
        self.counters = Counters()
        self._tickets: dict[str, Ticket] = {}
        self._adapters: dict[str, FoldedAdapter | None] = {}
        self._deadlines: list[tuple[float, str]] = []
        self._waiting = 0
        self._inbox: deque[Callable[[], None]] = deque()
        self._wake = threading.Condition()
        self._stopping = False
        self._decoder = Decoder(runner.decode, runner.decode_rows)
        self._thread = threading.Thread(target=self._loop, name="engine", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Ends the loop after its current slice; what was unfinished fails with EngineStopped, to be handed back."""
        with self._wake:
            self._stopping = True
            self._wake.notify()
        self._thread.join()
        self._decoder.close()
        self.cache.close()

    def submit(
        self,
        request: ImageRequest,
        load: Load | None = None,
        *,
        on_step: Callable[[float], None] = lambda _: None,
        on_preview: Callable[[int, int, Any], None] = lambda *_: None,
    ) -> "Future[Drawn]":
        """A future of the request's images. `load` brings its adapter when the host cache does not hold it; it runs on
        a thread of the cache while the request waits.

        The future fails with what `load` raised, QueueFull, DeadlineExceeded, IndexError (no such class),
        DrawingDiverged, Cancelled or EngineStopped. Raises EngineStopped at once after `stop`, ValueError for a
        request with an adapter and without `load`.
        """
        if request.adapter is not None and load is None:
            raise ValueError("a request with an adapter needs a way to load it")
        ticket = Ticket(request, on_step, on_preview)
        self._post(lambda: self._accept(ticket, load))
        return ticket.future

    def cancel(self, request_id: str) -> None:
        """The request's rows leave before the next step."""
        self._post(lambda: self._end(request_id, Cancelled()))

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

        self._post(forget)
        forgotten.result(timeout)

    def train(self, work: Work, on_event: Callable[[Any], None]) -> Training:
        """Runs `work` slice by slice; its return value resolves the future. Several take turns."""
        training = Training(work, Future(), on_event)
        self._post(lambda: self.trainings.add(training))
        return training

    def stats(self) -> dict[str, float]:
        """Counters since the start, and how things stand now."""
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
        }

    def _post(self, action: Callable[[], None]) -> None:
        with self._wake:
            if self._stopping:
                raise EngineStopped()
            self._inbox.append(action)
            self._wake.notify()

    def _post_unless_stopped(self, action: Callable[[], None]) -> None:
        """For other threads' reports: what they are about has been failed when the engine stopped."""
        try:
            self._post(action)
        except EngineStopped:
            logger.debug("the engine had stopped")

    def _loop(self) -> None:
        while self._wait_for_work():
            self._read_inbox()
            self._end_what_is_late()
            if self.trainings.due(serving=not self.scheduler.idle):
                self.trainings.took(training=self.counters.timed("training_seconds", self.trainings.step))
            elif not self.scheduler.idle:
                self.trainings.took(serving=self.counters.timed("step_seconds", self._serve_step))
        self._fail_everything()

    def _wait_for_work(self) -> bool:
        with self._wake:
            while not (self._stopping or self._inbox or self.trainings or not self.scheduler.idle):
                soonest = max(0.0, self._deadlines[0][0] - time.monotonic()) if self._deadlines else None
                if not self._wake.wait(soonest):
                    break
            return not self._stopping

    def _read_inbox(self) -> None:
        while self._inbox:
            self._inbox.popleft()()

    def _accept(self, ticket: Ticket, load: Load | None) -> None:
        request = ticket.request
        if self._waiting + len(request.seeds) > self.max_waiting:
            ticket.fail(QueueFull(self._waiting, self.max_waiting))
            return
        self._tickets[request.id] = ticket
        self._waiting += len(request.seeds)
        if request.deadline is not None:
            heapq.heappush(self._deadlines, (request.deadline, request.id))
        if request.adapter is None or load is None:
            self._enqueue(ticket, None)
            return
        loading = self.cache.get(request.adapter, load)
        if loading.done():
            self._loaded(ticket, loading)
        else:
            loading.add_done_callback(lambda done: self._post_unless_stopped(lambda: self._loaded(ticket, done)))

    def _loaded(self, ticket: Ticket, loading: "Future[FoldedAdapter]") -> None:
        if self._tickets.get(ticket.request.id) is not ticket:
            return  # it ended meanwhile
        error = loading.exception()
        if error is None:
            self._enqueue(ticket, loading.result())
        else:
            self._end(ticket.request.id, error)

    def _enqueue(self, ticket: Ticket, adapter: FoldedAdapter | None) -> None:
        ticket.reached("loading")
        self._adapters[ticket.request.id] = adapter
        self.scheduler.add(ticket.request)

    def _end_what_is_late(self) -> None:
        now = time.monotonic()
        while self._deadlines and self._deadlines[0][0] <= now:
            self._end(heapq.heappop(self._deadlines)[1], DeadlineExceeded())

    def _serve_step(self) -> None:
        rows = self._started(self.scheduler.next_rows())
        if not rows:
            return
        costs = [row.cost for row in rows]
        try:
            self.runner.step(rows)
        except Exception as error:
            logger.exception("a step of %d rows failed", len(rows))
            for request_id in {row.request.id for row in rows}:
                self._end(request_id, error)
            return
        self.counters.stepped(rows, costs)
        finished = self.scheduler.advance(rows)
        for row, cost in zip(rows, costs, strict=True):
            ticket = self._tickets[row.request.id]
            if "queued" not in ticket.timings:
                ticket.reached("queued")
                ticket.timings["activation"] = self.runner.activation_seconds
                self.counters.waited(ticket.timings["queued"])
            ticket.stepped(cost)
            if row.previewed:
                self._decoder.add(self.runner.x0(row), _previewed(ticket, row))
        for row in finished:
            self._decoder.add(self.runner.latent(row), self._decoded(self._tickets[row.request.id], row))
            self.runner.end(row)

    def _started(self, rows: list[Row]) -> list[Row]:
        ready = []
        for row in rows:
            try:
                if not self.runner.started(row):
                    self.runner.start(row, self._adapters[row.request.id])
                ready.append(row)
            except Exception as error:  # its own request's: no such class
                self._end(row.request.id, error)
        return [row for row in ready if row.request.id in self._tickets]

    def _decoded(self, ticket: Ticket, row: Row) -> Callable[[Tensor | Exception], None]:
        def done(image: Tensor | Exception) -> None:
            if isinstance(image, Exception):
                self._post_unless_stopped(lambda: self._end(ticket.request.id, image))
            elif ticket.deliver(row.index, image):
                self._post_unless_stopped(lambda: self._finished(ticket))

        return done

    def _finished(self, ticket: Ticket) -> None:
        self._forget(ticket)

    def _forget(self, ticket: Ticket) -> list[Row]:
        """Drops a request that has ended; returns its rows that were still here."""
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
        ticket = self._tickets.get(request_id)
        if ticket is None:
            return
        for row in self._forget(ticket):
            self.runner.end(row)
        ticket.fail(error)

    def _fail_everything(self) -> None:
        self._read_inbox()
        for request_id in list(self._tickets):
            self._end(request_id, EngineStopped())
        self.trainings.stop()


def _previewed(ticket: Ticket, row: Row) -> Callable[[Tensor | Exception], None]:
    steps_made = row.position

    def done(image: Tensor | Exception) -> None:
        if not isinstance(image, Exception):  # a preview is a courtesy
            ticket.on_preview(row.index, steps_made, image)

    return done
