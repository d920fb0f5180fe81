"""What is asked of the engine, and one image of it on its way. No torch here."""

import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from core.diffusion.timesteps import sampling_timesteps


@dataclass(frozen=True, kw_only=True)
class ImageRequest:
    """Images of one class with one adapter: one for each seed."""

    id: str
    tenant: str
    adapter: str | None
    """Digest of a registered adapter; None draws with the base itself."""
    class_id: int
    seeds: tuple[int, ...]
    steps: int
    guidance_scale: float
    weight: float = 1.0
    """The tenant's share beside others'."""
    priority: int = 0
    """Higher goes first within the tenant."""


@dataclass(eq=False)
class Row:
    """One image of a request: where it stands in its own list of timesteps."""

    request: ImageRequest
    index: int
    timesteps: list[int] = field(init=False)
    position: int = 0

    def __post_init__(self) -> None:
        self.timesteps = sampling_timesteps(self.request.steps)

    @property
    def seed(self) -> int:
        return self.request.seeds[self.index]

    @property
    def guided(self) -> bool:
        """A scale of 1 needs no unconditional row."""
        return self.request.guidance_scale != 1.0

    @property
    def cost(self) -> int:
        """Rows of the forward that one step takes."""
        return 2 if self.guided else 1

    @property
    def timestep(self) -> int:
        return self.timesteps[self.position]

    @property
    def next_timestep(self) -> int | None:
        """None after the last step."""
        following = self.position + 1
        return self.timesteps[following] if following < len(self.timesteps) else None

    @property
    def finished(self) -> bool:
        return self.position == len(self.timesteps)


@dataclass(frozen=True)
class Drawn:
    """What a request's future resolves to."""

    images: list[Any]
    """[S, S, 3] 8-bit pixels, in the order of the seeds."""
    row_steps: int
    """Forward rows that the request took, the unconditional ones included."""
    timings: dict[str, float]
    """Seconds: `queued` until the first row was admitted, `activation` of its adapter's slot, `total`."""


@dataclass(eq=False)
class Ticket:
    """A submitted request on its way to its future."""

    request: ImageRequest
    on_step: Callable[[float], None]
    """Hears which share of the steps is done; called by the loop, so it must be quick."""
    future: "Future[Drawn]" = field(default_factory=Future)
    images: dict[int, Any] = field(default_factory=dict)
    steps: int = 0
    row_steps: int = 0
    submitted: float = field(default_factory=time.monotonic)
    timings: dict[str, float] = field(default_factory=dict)

    def admitted(self, activation: float) -> None:
        if not self.timings:
            self.timings = {"queued": time.monotonic() - self.submitted, "activation": activation}

    def stepped(self, row: Row) -> None:
        self.steps += 1
        self.row_steps += row.cost
        self.on_step(self.steps / (len(self.request.seeds) * self.request.steps))

    def finish(self) -> None:
        images = [self.images[index] for index in range(len(self.images))]
        self.timings["total"] = time.monotonic() - self.submitted
        self.future.set_result(Drawn(images, self.row_steps, self.timings))
