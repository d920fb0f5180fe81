"""Generates many images in batches, with a progress bar, since some hundred images take minutes on a CPU."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor

from core.artifact.sampling import SamplingSettings
from core.ml.diffusion.sampling import sample
from core.ml.model.adapter import BASE, Adapter
from core.ml.model.autoencoder import to_uint8
from core.ml.model.checkpoint import LoadedBase
from core.ml.serving.request import ImageRequest
from core.ml.serving.resident import Resident

BATCH = 32


@dataclass(frozen=True)
class Artist:
    """Base, alone or with a domain's adapter, and the sampling settings for all images that it generates."""

    base: LoadedBase
    sampling: SamplingSettings
    adapter: Adapter
    null_class: int
    weaker: Adapter | None = None
    """Adapter in the unconditional prediction, which then guides only in the guidance interval. None means
    classifier-free guidance: the same adapter, at every timestep."""

    @classmethod
    def of_base(cls, base: LoadedBase, sampling: SamplingSettings) -> "Artist":
        return cls(base, sampling, BASE, base.dit.config.null_class)

    def draw(self, labels: Tensor, what: str) -> Tensor:
        """Generates one image for each class id in `labels` [K], with seeds 0 to K - 1. Returns [K, 3, S, S] uint8, the
        values that a PNG would contain."""
        seeds = torch.arange(len(labels))
        batches = list(zip(labels.split(BATCH), seeds.split(BATCH), strict=True))
        title = f"{what}: {len(labels)} pictures, {self.sampling.steps} steps"
        bar = track(batches, title, console=Console(stderr=True))
        return torch.cat([self._batch(part, places.tolist()) for part, places in bar])

    def _batch(self, labels: Tensor, seeds: list[int]) -> Tensor:
        config, device = self.base.dit.config, self.base.dit.positions.device
        shape = (config.in_channels, config.input_size, config.input_size)
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]  # one for each image, as in the engine

        def noise() -> Tensor:
            return torch.stack([torch.randn(shape, generator=generator) for generator in generators])

        latents = sample(
            self._predict,
            noise().to(device),
            labels.to(device),
            self.null_class,
            self.sampling,
            channels=config.guidance_channels,
            fresh=noise,
        )
        return to_uint8(self.base.autoencoder.decode(latents).cpu())

    def _predict(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        """Returns the predictions [2K, 2C, H, W] of K conditional batch rows, followed by their unconditional ones."""
        dit: Callable[..., Tensor] = self.base.dit
        if self.weaker is None:
            return dit(x, t, y, self.adapter)
        (x, other_x), (t, other_t), (y, other_y) = x.chunk(2), t.chunk(2), y.chunk(2)
        own, (lowest, highest) = dit(x, t, y, self.adapter), self.sampling.guidance_interval
        guided = lowest <= int(t[0]) <= highest  # all rows take the same steps
        return torch.cat([own, dit(other_x, other_t, other_y, self.weaker) if guided else own])


@contextmanager
def serving(base: LoadedBase) -> Iterator[Resident]:
    """Serves the base with the engine of a worker, until the block ends."""
    resident = Resident(
        base,
        adapter_slots=16,
        max_rows=None,
        exact=False,
        host_cache_bytes=2**30,
        max_waiting=10_000,
        training_share=0.0,
    )
    try:
        yield resident
    finally:
        resident.engine.stop()


def served(
    resident: Resident,
    labels: Tensor,
    sampling: SamplingSettings,
    adapter: tuple[str, Callable[[], Mapping[str, Tensor]]] | None = None,
    *,
    first_seed: int = 0,
) -> tuple[Tensor, float]:
    """Generates one image for each class id in `labels` [K] as a worker does, with successive seeds. `adapter` is a
    name and a function that loads the tensors; None is the base. Returns the images [K, 3, S, S] uint8, and the mean
    number of model evaluations for an image."""
    name, load = adapter or (None, None)
    futures = [
        resident.engine.submit(
            ImageRequest(
                id=f"image-{index}",
                tenant="benchmark",
                adapter=name,
                class_id=label,
                seeds=(first_seed + index,),
                sampling=sampling,
            ),
            load,
        )
        for index, label in enumerate(labels.tolist())
    ]
    drawn = [future.result() for future in futures]
    pixels = torch.stack([image for result in drawn for image in result.images]).permute(0, 3, 1, 2)
    return pixels, sum(result.model_evaluations for result in drawn) / len(drawn)


def alike(labels: Tensor, count: int) -> Tensor:
    """Returns `count` class ids, in which each class has the same fraction as in `labels`."""
    places = (torch.arange(count) + 0.5) * len(labels) / count
    return labels.sort().values[places.long()]
