"""Inbox of the engine's loop: actions from other threads, which wait for its next turn until the engine ends.

Every action comes with a function that fails its request, so that nobody waits for an action that will not run.
"""

import logging
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial

from core.artifact.errors import CoreError, DeviceLost, EngineStopped
from core.ml.model.device import is_lost

logger = logging.getLogger(__name__)

Fail = Callable[[BaseException], None]
"""Fails the request of an action."""


class Inbox:
    """Queue of actions: any thread may post, only the loop reads. `ending` makes the error for unfinished work once the
    engine ends."""

    def __init__(self) -> None:
        self.ending: Callable[[], EngineStopped] | None = None
        self._actions: deque[tuple[Callable[[], None], Fail]] = deque()
        self._wake = threading.Condition()

    def post(self, action: Callable[[], None], fail: Fail = lambda _: None) -> None:
        """Adds an action. `fail` is called instead of, or after, an action that could not be done. Raises EngineStopped
        or DeviceLost after the engine's end."""
        with self._wake:
            if self.ending is not None:
                raise self.ending()
            self._actions.append((action, fail))
            self._wake.notify()

    def post_unless_ended(self, action: Callable[[], None], fail: Fail = lambda _: None) -> None:
        """Adds an action that reports from another thread. Ignored after the engine's end, which has already
        failed its request."""
        try:
            self.post(action, fail)
        except EngineStopped:
            logger.debug("the engine had ended")

    def run(self, action: Callable[[], object], timeout: float) -> None:
        """Waits until the loop has run an action. Raises its error, EngineStopped, DeviceLost, TimeoutError."""
        result: Future[object] = Future()
        self.post(lambda: result.set_result(action()), result.set_exception)
        result.result(timeout)

    def wait(self, seconds: float) -> bool:
        """Waits up to `seconds` for an action. Returns False when the engine ends."""
        with self._wake:
            if seconds > 0:
                self._wake.wait_for(lambda: self.ending or self._actions, seconds)
            return self.ending is None

    def read(self) -> None:
        """Runs the waiting actions. An action's error fails what the action is for; the error of a lost device is
        raised."""
        while self._actions:
            run_guarded(*self._actions[0])  # stays there for `fail_all` when the device is lost
            self._actions.popleft()

    def end(self, error: BaseException | None = None) -> None:
        """Refuses further actions: the engine stops, or has died of `error`."""
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


def run_guarded(action: Callable[[], None], fail: Fail) -> None:
    """Runs one request's action; its error fails that request alone. Raises the error of a lost device."""
    try:
        action()
    except BaseException as error:
        if is_lost(error):
            raise
        fail(error)
