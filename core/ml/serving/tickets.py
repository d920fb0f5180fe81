"""Tickets: submitted image requests with their progress and results, and the table of all accepted tickets."""

import threading
import time
from bisect import insort
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any

from core.artifact.errors import QueueFull
from core.ml.model.bank import FoldedAdapter
from core.ml.serving.request import Drawn, ImageRequest, running_future


@dataclass(eq=False)
class Ticket:
    """Submitted image request, with its progress, its finished images and its future. The callbacks run on the engine's
    threads, so they must be quick. `images` holds the pixels of finished images by index, and `timings` the seconds by
    stage (see `Drawn.timings`)."""

    request: ImageRequest
    on_step: Callable[[float, int], None]
    """Called after each step of an image, with the fraction of all the request's steps that is done, and the number of
    model evaluations made."""
    on_preview: Callable[[int, int, Any], None]
    """Called with an image's index, the number of steps it has made, and a preview: the decoded x0 prediction."""
    adapter: FoldedAdapter | None = None
    """The request's adapter, once it is loaded; None for requests to the base model."""
    future: "Future[Drawn]" = field(default_factory=running_future)
    images: dict[int, Any] = field(default_factory=dict)
    steps: int = 0
    model_evaluations: int = 0
    submitted: float = field(default_factory=time.monotonic)
    timings: dict[str, float] = field(default_factory=dict)
    _ending: threading.Lock = field(default_factory=threading.Lock)

    def reached(self, stage: str) -> None:
        """Records the seconds from submission to this stage. Keeps the first value if called again."""
        self.timings.setdefault(stage, time.monotonic() - self.submitted)

    def stepped(self, cost: int) -> None:
        """Counts a step of one image, which took `cost` model evaluations, and calls `on_step`."""
        self.steps += 1
        self.model_evaluations += cost
        self.on_step(self.steps / (len(self.request.seeds) * self.request.sampling.steps), self.model_evaluations)

    def deliver(self, index: int, image: Any) -> bool:
        """Adds a finished image. If it is the request's last image, resolves the future and returns True; otherwise
        returns False."""
        with self._ending:
            if self.future.done():
                return False
            self.images[index] = image
            if len(self.images) < len(self.request.seeds):
                return False
            self.reached("total")
            images = [self.images[index] for index in range(len(self.images))]
            self.future.set_result(Drawn(images, self.model_evaluations, self.timings))
            return True

    def fail(self, error: BaseException) -> None:
        """Fails the future with `error`, unless the future is resolved already, and drops adapter and images."""
        with self._ending:
            if not self.future.done():
                self.future.set_exception(error)
        self.clear()

    def clear(self) -> None:
        """Drops adapter and images, so that a callback that still holds the ticket of an ended request keeps no deleted
        adapter in memory."""
        self.adapter = None
        with self._ending:
            self.images.clear()


class Tickets:
    """Accepted tickets by request id and by deadline. All tickets together have at most `max_images` images."""

    def __init__(self, max_images: int) -> None:
        self.max_images = max_images
        self.images = 0
        """Number of images of all tickets, including images that are finished."""
        self.by_id: dict[str, Ticket] = {}
        self._deadlines: list[tuple[float, str]] = []
        """(deadline, request id) of the requests that have a deadline, ascending."""

    def __contains__(self, ticket: Ticket) -> bool:
        return self.by_id.get(ticket.request.id) is ticket

    def add(self, ticket: Ticket) -> None:
        """Adds a ticket. Raises ValueError when its request's id is in use, QueueFull when there would be too many
        images."""
        request = ticket.request
        if request.id in self.by_id:
            raise ValueError(f"there is a request '{request.id}' already")
        if self.images + len(request.seeds) > self.max_images:
            raise QueueFull(self.images, self.max_images)
        self.by_id[request.id] = ticket
        self.images += len(request.seeds)
        if request.deadline is not None:
            insort(self._deadlines, (request.deadline, request.id))

    def remove(self, ticket: Ticket) -> None:
        request = ticket.request
        del self.by_id[request.id]
        self.images -= len(request.seeds)
        if request.deadline is not None:
            self._deadlines.remove((request.deadline, request.id))

    @property
    def next_deadline(self) -> float:
        """The earliest deadline, on the clock of time.monotonic(); infinity if no ticket has a deadline."""
        return self._deadlines[0][0] if self._deadlines else float("inf")

    def late(self) -> list[Ticket]:
        """Returns the tickets whose deadline has passed."""
        now = time.monotonic()
        return [self.by_id[id] for _, id in takewhile(lambda entry: entry[0] <= now, self._deadlines)]
