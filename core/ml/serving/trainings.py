"""Runs fine-tunes in the engine's loop, in short slices between sampling steps. Fine-tunes take turns, and together get
a configured fraction of the device's time."""

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
"""Max fine-tunes whose slices are computed together as one batch."""

Work = Generator[Any, None, Any]
"""Fine-tune as a generator: each `next` runs one slice, which should keep the device busy only for a short time. It
yields one of: None; an event for `on_event`; a Future that it waits for, before which it has nothing to do; or a Joint,
which is its next slice, so that the slice can be computed together with those of other fine-tunes. When the engine
stops, EngineStopped is thrown into the generator, which may yield one last event."""


@dataclass(eq=False)
class Training:
    """Fine-tune that the engine runs. Setting `cancelled` makes it fail with Cancelled at its next turn."""

    work: Work
    on_event: Callable[[Any], None]
    future: "Future[Any]" = field(default_factory=running_future)
    cancelled: threading.Event = field(default_factory=threading.Event)
    awaited: "Future[Any] | None" = None
    """Future that the work waits for before its next slice; None if it can continue."""
    joint: Joint | None = None
    """The next slice, if it can be computed together with slices of other fine-tunes."""

    @property
    def is_ready(self) -> bool:
        """Whether the fine-tune can run its next slice, or has to end because it is cancelled."""
        return self.awaited is None or self.awaited.done() or self.cancelled.is_set()

    def advance(self) -> None:
        """Runs one slice. The last slice resolves the future. Raises Cancelled, or an error that the work or `on_event`
        raised."""
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
        """Fails the fine-tune because the engine stops. Unless the device is lost, the work may yield one last event
        first, such as a checkpoint."""
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
    """The fine-tunes that run in the engine. `share` is the min fraction of the device's time for fine-tunes while
    there are images to generate too. `on_ready` is called, on any thread, when a fine-tune that waited can continue.
    `check` is passed to `run_guarded`."""

    def __init__(
        self, share: float, on_ready: Callable[[], None] = lambda: None, check: Callable[[], None] = lambda: None
    ) -> None:
        self.share, self.on_ready, self.check = share, on_ready, check
        self._queue: deque[Training] = deque()
        self._serving_debt = self._training_debt = 0.0
        self._counts = BatchSizes(range(1, MOST_TOGETHER + 1))
        """Max number of fine-tunes computed together. It is smaller for a while after memory ran out."""

    @property
    def is_ready(self) -> bool:
        """Whether any fine-tune can run a slice."""
        return any(training.is_ready for training in self._queue)

    def add(self, training: Training) -> None:
        self._queue.append(training)

    def due(self, *, serving: bool) -> bool:
        """Returns whether the loop should run a fine-tune's slice next, rather than a sampling step. `serving` is
        whether there are images to generate. When only now both have work, sampling goes first."""
        ready = self.is_ready
        if not ready or not serving:
            self._serving_debt = self._training_debt = 0.0  # the fraction applies only while both have work
            return ready
        return self._training_debt < self.share * (self._serving_debt + self._training_debt)

    def took(self, *, serving: float = 0.0, training: float = 0.0) -> None:
        """Records the seconds that the loop just spent on a sampling step or on a fine-tune's slice."""
        self._serving_debt += serving
        self._training_debt += training

    def step(self) -> None:
        """Runs one slice of the next fine-tune that is ready, together with all fine-tunes whose slices can be computed
        with it. An error fails only the fine-tune that raised it; DeviceLost is raised."""
        while not self._queue[0].is_ready:
            self._queue.rotate(-1)
        for training in self._computed_together(self._group()):
            run_guarded(training.advance, training.fail, self.check)
            self._queue.remove(training)
            if not training.future.done():
                self._queue.append(training)
                if training.awaited is not None:
                    training.awaited.add_done_callback(lambda _: self.on_ready())

    def _group(self) -> list[Training]:
        """Returns the first fine-tune of the queue, followed by those whose next slices can be computed together with
        its own."""
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
        """Computes the next slices of these fine-tunes together, and returns the fine-tunes that may advance now. If
        that fails, returns only the first fine-tune, which then computes its slice alone, so that only a faulty
        fine-tune fails. After memory ran out, fewer fine-tunes are computed together. Raises an error of a lost
        device."""
        first, *others = (training.joint for training in trainings)
        if first is None:
            return trainings
        try:
            if others:  # counting a single one as a fit too lets the number grow again from 1
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
        """Ends all fine-tunes with `error`, because the engine stops."""
        while self._queue:
            self._queue.popleft().stop(error)
