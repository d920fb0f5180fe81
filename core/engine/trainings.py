"""Fine-tunes beside serving: they take turns, a slice at a time, and get a share of the device's time."""

import logging
import threading
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from core.errors import Cancelled, EngineStopped

logger = logging.getLogger(__name__)

Work = Generator[Any, None, Any]
"""Long work in short slices: each `next` is one slice of the device's time; what it yields goes to `on_event`. At a
stop EngineStopped is thrown into it, which it may answer with one last event."""


@dataclass(eq=False)
class Training:
    """One fine-tune."""

    work: Work
    future: "Future[Any]"
    on_event: Callable[[Any], None]
    cancelled: threading.Event = field(default_factory=threading.Event)


class Trainings:
    """Those that run. `share` is the part of the device's time that they get at least while serving has work too."""

    def __init__(self, share: float) -> None:
        self.share = share
        self._queue: deque[Training] = deque()
        self._serving_debt = self._training_debt = 0.0

    def __bool__(self) -> bool:
        return bool(self._queue)

    def add(self, training: Training) -> None:
        self._queue.append(training)

    def due(self, *, serving: bool) -> bool:
        """Whether the next slice is a fine-tune's, when serving has work or has none."""
        if not self._queue or not serving:
            self._serving_debt = self._training_debt = 0.0  # a share is owed only while both have work
            return bool(self._queue)
        return self._training_debt <= self.share * (self._serving_debt + self._training_debt)

    def took(self, *, serving: float = 0.0, training: float = 0.0) -> None:
        """Seconds that the last slice took."""
        self._serving_debt += serving
        self._training_debt += training

    def step(self) -> None:
        """One slice of the next one's work. What it raises, its own future hears of; the loop serves the others on."""
        training = self._queue.popleft()
        if training.cancelled.is_set():
            training.work.close()
            training.future.set_exception(Cancelled())
            return
        try:
            event = next(training.work)
        except StopIteration as end:
            training.future.set_result(end.value)
        except BaseException as error:
            training.future.set_exception(error)
        else:
            if event is not None:
                training.on_event(event)
            self._queue.append(training)

    def stop(self) -> None:
        """Each hears of the end, and may yield one last event: where it got to."""
        for training in self._queue:
            _stop(training)


def _stop(training: Training) -> None:
    error = EngineStopped()
    try:
        if not training.cancelled.is_set() and (event := training.work.throw(error)) is not None:
            training.on_event(event)
        training.work.close()
    except BaseException as last:
        if last is not error:
            logger.warning("a fine-tune could not tell where it got to", exc_info=last)
    training.future.set_exception(error)
