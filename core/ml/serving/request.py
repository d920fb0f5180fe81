"""Image requests to the engine, their images in progress, and their results. Does not import torch."""

from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from core.artifact.sampling import SamplingSettings


@dataclass(frozen=True, kw_only=True)
class ImageRequest:
    """Request for images of one class with one adapter: one image for each seed."""

    id: str
    tenant: str
    adapter: str | None
    """Digest of the adapter file; None generates with the base model itself."""
    class_id: int
    base_class: int | None = None
    """Index of the base's class of the same name, from which `adapter_scale` starts; None if the base has none."""
    mix_adapter: str | None = None
    """Digest of an adapter that is mixed into `adapter`, with the weight `mix_weight` of the sampling settings."""
    mix_class: int = 0
    """Index of the class of the same name in `mix_adapter`."""
    seeds: tuple[int, ...]
    sampling: SamplingSettings
    scale: int = 1
    """Ratio of the image size to the base's image size. A scale of 2 has four times the tokens."""
    weight: float = 1.0
    """Weight of the tenant: a tenant with weight 2 gets twice the device time of a tenant with weight 1."""
    priority: int = 0
    """Order among the tenant's own requests: higher priorities go first."""
    deadline: float | None = None
    """Time after which the request fails, on the clock of time.monotonic(); None for no deadline."""
    previews: int = 0
    """Number of evenly spaced previews per image."""

    @property
    def adapters(self) -> tuple[str, ...]:
        """Digests of the adapter files that the request needs: none, `adapter`, or also `mix_adapter`."""
        return tuple(digest for digest in (self.adapter, self.mix_adapter) if digest is not None)


@dataclass(eq=False)
class Row:
    """One image of a request that is being sampled. `index` is the image's index in the request. `position` is the
    number of sampling steps made so far, which is also the index of the next step in `timesteps`."""

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
        """Whether the next step needs an unconditional row too. It does unless the guidance scale is 1, the timestep is
        outside the guidance interval, or the adapter has learned guidance."""
        sampling = self.request.sampling
        lowest, highest = sampling.guidance_interval
        without = sampling.guidance_scale == 1.0 or sampling.learned_guidance > 0
        return not without and lowest <= self.timestep <= highest

    @property
    def cost(self) -> int:
        """Cost of the next step, in batch rows of the base's image size: 1 row, or 2 if guided, times the square of the
        scale."""
        return self.request.scale**2 * (2 if self.guided else 1)

    @property
    def timestep(self) -> int:
        return self.timesteps[self.position]

    @property
    def finished(self) -> bool:
        return self.position == len(self.timesteps)

    @property
    def previewed(self) -> bool:
        """Whether a preview of the image is due after the step that was just made."""
        parts, steps = self.request.previews + 1, len(self.timesteps)
        return not self.finished and self.position * parts // steps > (self.position - 1) * parts // steps


def running_future() -> "Future[Any]":
    """Returns a future that callers cannot cancel, so that only the engine resolves it."""
    future: Future[Any] = Future()
    future.set_running_or_notify_cancel()
    return future


@dataclass(frozen=True)
class Drawn:
    """Result of an image request: the value of its future."""

    images: list[Any]
    """[S, S, 3] 8-bit pixels, in the order of the seeds."""
    model_evaluations: int
    """Number of batch rows that passed the model for this request, unconditional rows included."""
    timings: dict[str, float]
    """Seconds from submission to each stage: `loading` (the adapter is in the host cache), `queued` (the first step is
    made), `total` (all images are decoded). `activation` is the time that copying adapters to the device took in the
    first step."""
