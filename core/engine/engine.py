"""The loop that owns the device: it serves rows and runs fine-tunes on one resident base.

Everything that touches the device happens on this one thread. Others submit and wait on a future.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from core.engine.request import Drawn, ImageRequest, Row, Ticket
from core.engine.runner import Runner
from core.engine.scheduler import Scheduler
from core.errors import Cancelled, EngineStopped, QueueFull, UnknownAdapter
from core.model.bank import AdapterBank

logger = logging.getLogger(__name__)

Work = Generator[Any, None, Any]
"""Long work in short slices: each `next` is one slice of the device's time; what it yields goes to `on_event`."""


@dataclass(eq=False)
class Training:
    """A fine-tune beside serving."""

    work: Work
    future: "Future[Any]"
    on_event: Callable[[Any], None]
    cancelled: threading.Event = field(default_factory=threading.Event)


class Engine:
    """Serves image requests in one batch and gives training the time that serving leaves.

    `training_share` is the part of the device's time that training gets at least while both have work.
    """

    def __init__(
        self, runner: Runner, bank: AdapterBank, *, max_rows: int, max_waiting: int, training_share: float
    ) -> None:
        self.runner, self.bank = runner, bank
        self.scheduler = Scheduler(max_rows)
        self.max_waiting, self.training_share = max_waiting, training_share
        self._tickets: dict[str, Ticket] = {}
        self._trainings: deque[Training] = deque()
        self._inbox: deque[Callable[[], None]] = deque()
        self._wake = threading.Condition()
        self._stopping = False
        self._serving_seconds = self._training_seconds = 0.0
        self._thread = threading.Thread(target=self._loop, name="engine", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Ends the loop after its current slice; what was unfinished fails with EngineStopped, to be handed back."""
        with self._wake:
            self._stopping = True
            self._wake.notify()
        self._thread.join()

    def add_adapter(self, digest: str, tensors: Mapping[str, Tensor]) -> None:
        """Makes an adapter known before requests name it. Returns when it is in the host cache."""
        done: Future[None] = Future()
        self._post(lambda: _resolve(done, lambda: self.bank.add(digest, tensors)))
        done.result()

    def submit(self, request: ImageRequest, on_step: Callable[[float], None] = lambda _: None) -> "Future[Drawn]":
        """A future of the request's images. It fails with QueueFull, UnknownAdapter (add it again), IndexError (no
        such class), Cancelled or EngineStopped."""
        ticket = Ticket(request, on_step)
        self._post(lambda: self._accept(ticket))
        return ticket.future

    def cancel(self, request_id: str) -> None:
        """The request's rows leave before the next step."""
        self._post(lambda: self._end(request_id, Cancelled()))

    def train(self, work: Work, on_event: Callable[[Any], None]) -> Training:
        """Runs `work` slice by slice; its return value resolves the future. Several take turns."""
        training = Training(work, Future(), on_event)
        self._post(lambda: self._trainings.append(training))
        return training

    def _post(self, action: Callable[[], None]) -> None:
        with self._wake:
            if self._stopping:
                raise EngineStopped()
            self._inbox.append(action)
            self._wake.notify()

    def _loop(self) -> None:
        while self._wait_for_work():
            while self._inbox:
                self._inbox.popleft()()
            if self._training_is_due():
                self._training_seconds += _timed(self._train_slice)
            elif not self.scheduler.idle:
                self._serving_seconds += _timed(self._serve_step)
        self._fail_everything()

    def _wait_for_work(self) -> bool:
        with self._wake:
            while not (self._stopping or self._inbox or self._trainings or not self.scheduler.idle):
                self._wake.wait()
            return not self._stopping

    def _training_is_due(self) -> bool:
        if not self._trainings or self.scheduler.idle:
            self._serving_seconds = self._training_seconds = 0.0  # a share is owed only while both have work
            return bool(self._trainings)
        return self._training_seconds <= self.training_share * (self._serving_seconds + self._training_seconds)

    def _train_slice(self) -> None:
        training = self._trainings.popleft()
        if training.cancelled.is_set():
            training.work.close()
            training.future.set_exception(Cancelled())
            return
        try:
            event = next(training.work)
        except StopIteration as end:
            training.future.set_result(end.value)
        except BaseException as error:  # its own future hears of it; the loop serves the others on
            training.future.set_exception(error)
        else:
            if event is not None:
                training.on_event(event)
            self._trainings.append(training)

    def _serve_step(self) -> None:
        rows = self._admitted(self.scheduler.next_rows())
        if not rows:
            return
        self.runner.step(rows)
        for row in rows:
            self._tickets[row.request.id].stepped(row)
        for row in self.scheduler.advance(rows):
            self._deliver(row)

    def _admitted(self, rows: list[Row]) -> list[Row]:
        """Rows that are ready to step. One whose adapter finds no free slot waits; a slot is free sooner or later,
        since rows in flight end."""
        ready = []
        for row in rows:
            if row in self.runner.states:
                ready.append(row)
                continue
            try:
                started = time.perf_counter()
                if self.runner.admit(row):
                    ready.append(row)
                    self._tickets[row.request.id].admitted(time.perf_counter() - started)
            except KeyError:
                self._end(row.request.id, UnknownAdapter(row.request.adapter or ""))
            except Exception as error:
                logger.exception("a row could not be admitted")
                self._end(row.request.id, error)
        return [row for row in ready if row in self.runner.states]

    def _accept(self, ticket: Ticket) -> None:
        request = ticket.request
        if self.scheduler.waiting + len(request.seeds) > self.max_waiting:
            ticket.future.set_exception(QueueFull(self.scheduler.waiting))
        elif request.adapter is not None and request.adapter not in self.bank:
            ticket.future.set_exception(UnknownAdapter(request.adapter))
        else:
            self._tickets[request.id] = ticket
            self.scheduler.add(request)

    def _deliver(self, row: Row) -> None:
        ticket = self._tickets[row.request.id]
        ticket.images[row.index] = self.runner.decode(self.runner.leave(row).latent)
        if len(ticket.images) == len(row.request.seeds):
            del self._tickets[row.request.id]
            ticket.finish()

    def _end(self, request_id: str, error: Exception) -> None:
        for row in self.scheduler.remove(request_id):
            if row in self.runner.states:
                self.runner.leave(row)
        ticket = self._tickets.pop(request_id, None)
        if ticket is not None:
            ticket.future.set_exception(error)

    def _fail_everything(self) -> None:
        while self._inbox:
            self._inbox.popleft()()
        for request_id in list(self._tickets):
            self._end(request_id, EngineStopped())
        for training in self._trainings:
            training.work.close()
            training.future.set_exception(EngineStopped())


def _resolve(future: "Future[None]", action: Callable[[], None]) -> None:
    try:
        action()
    except Exception as error:
        future.set_exception(error)
    else:
        future.set_result(None)


def _timed(action: Callable[[], None]) -> float:
    started = time.perf_counter()
    action()
    return time.perf_counter() - started
