"""Inbox of the engine's loop: a queue of actions that other threads post, and that the loop runs at its next turn.

Every action comes with a function that fails the request that the action belongs to, so that no caller waits for an
action that will not run because the engine has ended.
"""

import logging
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial

from core.artifact.errors import CoreError, DeviceLost, EngineStopped
from core.ml.model.device import is_lost, is_out_of_memory

logger = logging.getLogger(__name__)

Fail = Callable[[BaseException], None]
"""Function that fails the request that an action belongs to."""


class Inbox:
    """Queue of actions. Any thread may post; only the loop reads. Once the engine ends, `ending` creates the error with
    which unfinished work fails; before, it is None. `check` is passed to `run_guarded`."""

    def __init__(self, check: Callable[[], None]) -> None:
        self.check = check
        self.ending: Callable[[], EngineStopped] | None = None
        self._actions: deque[tuple[Callable[[], None], Fail]] = deque()
        self._wake = threading.Condition()

    def post(self, action: Callable[[], None], fail: Fail = lambda _: None) -> None:
        """Queues an action for the loop. `fail` is called with the error if the action raises, or if the engine ends
        before it ran. Raises EngineStopped or DeviceLost after the engine's end."""
        with self._wake:
            if self.ending is not None:
                raise self.ending()
            self._actions.append((action, fail))
            self._wake.notify()

    def post_unless_ended(self, action: Callable[[], None], fail: Fail = lambda _: None) -> None:
        """Queues an action like `post`, but does nothing after the engine's end, which has already failed the action's
        request. For results that the cache's and decoder's threads report."""
        try:
            self.post(action, fail)
        except EngineStopped:
            logger.debug("the engine had ended")

    def run(self, action: Callable[[], object], timeout: float) -> None:
        """Queues an action and waits until the loop has run it. Raises the action's error, EngineStopped, DeviceLost,
        or TimeoutError after `timeout` seconds."""
        result: Future[object] = Future()
        self.post(lambda: result.set_result(action()), result.set_exception)
        result.result(timeout)

    def wait(self, seconds: float) -> bool:
        """Waits up to `seconds` for an action to be posted. Returns False when the engine ends."""
        with self._wake:
            if seconds > 0:
                self._wake.wait_for(lambda: self.ending or self._actions, seconds)
            return self.ending is None

    def read(self) -> None:
        """Runs the waiting actions. An action's error fails the request that the action belongs to; DeviceLost is
        raised."""
        while self._actions:
            run_guarded(*self._actions[0], self.check)  # stays there for `fail_all` when the device is lost
            self._actions.popleft()

    def end(self, error: BaseException | None = None) -> None:
        """Refuses further actions, because the engine is being stopped or has failed with `error`."""
        with self._wake:
            if error is not None:
                reason = error.detail if isinstance(error, CoreError) else f"{type(error).__name__}: {error}"
                self.ending = partial(DeviceLost, reason)
            self.ending = self.ending or EngineStopped
            self._wake.notify()

    def fail_all(self, ending: Callable[[], EngineStopped]) -> None:
        while self._actions:
            _, fail = self._actions.popleft()
            fail(ending())


def run_guarded(action: Callable[[], None], fail: Fail, check: Callable[[], None]) -> None:
    """Runs an action. If it raises, calls `fail` with the error. Raises the error instead if the device is lost.

    Not every error of a lost device can be recognized by its text: drivers and compilers have their own. So after any
    other RuntimeError `check` computes something on the device, and raises DeviceLost if it cannot.
    """
    try:
        action()
    except BaseException as error:
        if is_lost(error):
            raise
        if isinstance(error, RuntimeError) and not is_out_of_memory(error):
            check()
        fail(error)
