"""Requests to the engine, their batch rows, and their results. No torch here."""

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
    """Seconds: `loading` until its adapter was in the host cache, `queued` until its first step, `total`."""
