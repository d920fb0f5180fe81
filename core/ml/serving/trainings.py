"""Fine-tunes next to serving: they take turns, a slice at a time, and get a fraction of the device's time."""

import logging
import threading
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from core.artifact.errors import Cancelled, DeviceLost, EngineStopped
from core.ml.model.device import is_lost, is_out_of_memory, release_memory
from core.ml.model.sizes import BatchSizes
from core.ml.serving.inbox import run_guarded
from core.ml.serving.request import running_future
from core.ml.slices import Joint

logger = logging.getLogger(__name__)

MOST_TOGETHER = 64
"""Fine-tunes in one joint slice."""

Work = Generator[Any, None, Any]
"""Long work in short slices: each `next` is one slice of the device's time, and what it yields goes to `on_event`. A
yielded Future or Joint is not an event. Until a Future is resolved, the work has nothing to do. At a stop EngineStopped
is thrown into the work, which may answer with one last event."""


@dataclass(eq=False)
class Training:
    """One fine-tune."""

    work: Work
    on_event: Callable[[Any], None]
    future: "Future[Any]" = field(default_factory=running_future)
    cancelled: threading.Event = field(default_factory=threading.Event)
    awaited: "Future[Any] | None" = None
    """Future that the work waits for; None when it waits for nothing."""
    joint: Joint | None = None
    """The next slice of the work, if it can be computed with slices of others."""

    @property
    def is_ready(self) -> bool:
        """Returns whether the next slice has something to do."""
        return self.awaited is None or self.awaited.done() or self.cancelled.is_set()

    def advance(self) -> None:
        """Runs one slice; the last resolves the future. Raises Cancelled, and errors of the work or its listener."""
        if self.cancelled.is_set():
            raise Cancelled()
        try:
            event = next(self.work)
        except StopIteration as end:
            self.future.set_result(end.value)
            return
        self.awaited = event if isinstance(event, Future) else None
        self.joint = event if isinstance(event, Joint) else None
        if self.awaited is None and self.joint is None and event is not None:
            self.on_event(event)

    def fail(self, error: BaseException) -> None:
        try:
            self.work.close()
        except BaseException:
            logger.exception("a fine-tune could not be closed")
        self.future.set_exception(error)

    def stop(self, error: EngineStopped) -> None:
        """Fails the work with `error`. Unless the device is lost, the work may yield one last event: how far it got."""
        try:
            if not self.cancelled.is_set() and not isinstance(error, DeviceLost):
                event = self.work.throw(error)
                if event is not None:
                    self.on_event(event)
        except BaseException as last:
            if last is not error:
                logger.warning("a fine-tune could not store where it got to", exc_info=last)
        self.fail(error)


class Trainings:
    """Running fine-tunes. `share` is the min fraction of the device's time that they get while serving has work too.
    `on_ready` is called, on any thread, when a waiting fine-tune has work again."""

    def __init__(self, share: float, on_ready: Callable[[], None] = lambda: None) -> None:
        self.share, self.on_ready = share, on_ready
        self._queue: deque[Training] = deque()
        self._serving_debt = self._training_debt = 0.0
        self._counts = BatchSizes(range(1, MOST_TOGETHER + 1))
        """Max fine-tunes computed together: fewer for a while after memory ran out."""

    @property
    def is_ready(self) -> bool:
        """Returns whether a fine-tune has something to do."""
        return any(training.is_ready for training in self._queue)

    def add(self, training: Training) -> None:
        self._queue.append(training)

    def due(self, *, serving: bool) -> bool:
        """Returns whether the next slice is a fine-tune's. `serving` is whether serving has work; after idle time it
        goes first."""
        ready = self.is_ready
        if not ready or not serving:
            self._serving_debt = self._training_debt = 0.0  # a share is owed only while both have work
            return ready
        return self._training_debt < self.share * (self._serving_debt + self._training_debt)

    def took(self, *, serving: float = 0.0, training: float = 0.0) -> None:
        """Records the seconds that the last slice took."""
        self._serving_debt += serving
        self._training_debt += training

    def step(self) -> None:
        """Runs one slice of the next ready training, together with those that can be computed with it. An error ends
        only the training that it comes from; the error of a lost device is raised."""
        while not self._queue[0].is_ready:
            self._queue.rotate(-1)
        for training in self._computed_together(self._group()):
            run_guarded(training.advance, training.fail)
            self._queue.remove(training)
            if not training.future.done():
                self._queue.append(training)
                if training.awaited is not None:
                    training.awaited.add_done_callback(lambda _: self.on_ready())

    def _group(self) -> list[Training]:
        """Returns the next training, and after it those whose next slices can be computed with its own."""
        first, *others = self._queue
        if first.joint is None or first.cancelled.is_set():
            return [first]
        together, joints = [first], [first.joint]
        for training in others:
            if len(joints) == self._counts.in_use[-1]:
                break
            joint = None if training.cancelled.is_set() else training.joint
            if joint is not None and joint.joins(joints):
                joints.append(joint)
                together.append(training)
        return together

    def _computed_together(self, trainings: list[Training]) -> list[Training]:
        """Computes the trainings' joint slice, and returns those that go on now. If a joint slice fails, only the first
        goes on, so that the training at fault fails alone. After memory ran out, fewer are computed together."""
        first, *others = (training.joint for training in trainings)
        if first is None:
            return trainings
        try:
            if others:  # one alone counts too, so that more share again after memory ran out with two
                first.compute_with([joint for joint in others if joint is not None])
        except Exception as error:
            if is_lost(error):
                raise
            logger.warning("a slice of %d fine-tunes together failed", len(trainings), exc_info=error)
            ran_out = is_out_of_memory(error)
        else:
            self._counts.count_fit()
            return trainings
        if ran_out:
            release_memory()
            self._counts.shrink_to(len(trainings) // 2)
        return trainings[:1]

    def stop(self, error: EngineStopped) -> None:
        """Ends all fine-tunes with `error`."""
        while self._queue:
            self._queue.popleft().stop(error)
