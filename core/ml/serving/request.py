"""Requests to the engine, and their images on their way. No torch here."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from core.artifact.sampling import SamplingSettings


@dataclass(frozen=True, kw_only=True)
class ImageRequest:
    """Images of one class with one adapter: one for each seed."""

    id: str
    tenant: str
    adapter: str | None
    """Digest of an adapter; None draws with the base itself."""
    class_id: int
    seeds: tuple[int, ...]
    sampling: SamplingSettings
    scale: int = 1
    """Image size in multiples of the base's: 2 takes four times the tokens."""
    weight: float = 1.0
    """The tenant's weight against others'."""
    priority: int = 0
    """Higher goes first within the tenant."""
    deadline: float | None = None
    """On time.monotonic()'s clock."""
    previews: int = 0
    """Number of evenly spaced previews per image."""


@dataclass(eq=False)
class Row:
    """One image of a request, and its position in its own list of timesteps."""

    request: ImageRequest
    index: int
    timesteps: list[int] = field(init=False)
    position: int = 0

    def __post_init__(self) -> None:
        self.timesteps = self.request.sampling.timesteps

    @property
    def seed(self) -> int:
        return self.request.seeds[self.index]

    @property
    def guided(self) -> bool:
        """Whether this step takes an unconditional row too: not at a scale of 1, nor outside the interval."""
        lowest, highest = self.request.sampling.guidance_interval
        return self.request.sampling.guidance_scale != 1.0 and lowest <= self.timestep <= highest

    @property
    def cost(self) -> int:
        """Rows of the forward that this step takes, in rows of the base's size."""
        return self.request.scale**2 * (2 if self.guided else 1)

    @property
    def timestep(self) -> int:
        return self.timesteps[self.position]

    @property
    def finished(self) -> bool:
        return self.position == len(self.timesteps)

    @property
    def previewed(self) -> bool:
        """Whether the step that was just made is to be shown."""
        parts, steps = self.request.previews + 1, len(self.timesteps)
        return not self.finished and self.position * parts // steps > (self.position - 1) * parts // steps


def running_future() -> "Future[Any]":
    """A future that its holder cannot cancel: only the engine resolves it."""
    future: Future[Any] = Future()
    future.set_running_or_notify_cancel()
    return future


@dataclass(frozen=True)
class Drawn:
    """Result of a request's future."""

    images: list[Any]
    """[S, S, 3] 8-bit pixels, in the order of the seeds."""
    model_evaluations: int
    """Forward rows that the request took, the unconditional ones included."""
    timings: dict[str, float]
    """Seconds: `loading` until its adapter lay in the host cache, `queued` until its first step, `total`."""


@dataclass(eq=False)
class Ticket:
    """A submitted request on its way to its future. Its listeners are called by the engine's threads, so they must be
    quick."""

    request: ImageRequest
    on_step: Callable[[float], None]
    """Called with the fraction of the steps that is done."""
    on_preview: Callable[[int, int, Any], None]
    """Called with an image's index, the steps it has made, and its pixels as they would end now."""
    future: "Future[Drawn]" = field(default_factory=running_future)
    images: dict[int, Any] = field(default_factory=dict)
    steps: int = 0
    model_evaluations: int = 0
    submitted: float = field(default_factory=time.monotonic)
    timings: dict[str, float] = field(default_factory=dict)
    _ending: threading.Lock = field(default_factory=threading.Lock)

    def reached(self, stage: str) -> None:
        """Notes the seconds from submission to this stage, once."""
        self.timings.setdefault(stage, time.monotonic() - self.submitted)

    def stepped(self, cost: int) -> None:
        self.steps += 1
        self.model_evaluations += cost
        self.on_step(self.steps / (len(self.request.seeds) * self.request.sampling.steps))

    def deliver(self, index: int, image: Any) -> bool:
        """Takes an image; True when it was the last and the future is resolved."""
        with self._ending:
            self.images[index] = image
            if len(self.images) < len(self.request.seeds) or self.future.done():
                return False
            self.reached("total")
            images = [self.images[index] for index in range(len(self.images))]
            self.future.set_result(Drawn(images, self.model_evaluations, self.timings))
            return True

    def fail(self, error: BaseException) -> None:
        """Fails the future, unless it is resolved already."""
        with self._ending:
            if not self.future.done():
                self.future.set_exception(error)
