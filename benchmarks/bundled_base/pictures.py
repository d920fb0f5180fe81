"""Draws many pictures in batches, with a bar: on a CPU some hundred take minutes."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor

from core.artifact.sampling import SamplingSettings
from core.ml.diffusion.sampling import sample, seeded_noise
from core.ml.model.adapter import BASE, Adapter, TensorAdapter
from core.ml.model.checkpoint import LoadedBase

BATCH = 32


@dataclass(frozen=True)
class Artist:
    """A base, or a domain on it, with the settings that everything is drawn with."""

    base: LoadedBase
    steps: int
    guidance_scale: float
    adapter: Adapter
    null_class: int

    @classmethod
    def of_base(cls, base: LoadedBase, steps: int, guidance_scale: float) -> "Artist":
        return cls(base, steps, guidance_scale, BASE, base.dit.config.null_class)

    def with_domain(self, tensors: Mapping[str, Tensor], classes: int) -> "Artist":
        return Artist(self.base, self.steps, self.guidance_scale, TensorAdapter(tensors), classes)

    def draw(self, labels: Tensor, what: str) -> Tensor:
        """One picture for each class id [K], seeds 0 to K - 1 -> [K, 3, S, S] uint8, as a PNG would hold it."""
        seeds = torch.arange(len(labels))
        batches = list(zip(labels.split(BATCH), seeds.split(BATCH), strict=True))
        bar = track(batches, f"{what}: {len(labels)} pictures, {self.steps} steps", console=Console(stderr=True))
        return torch.cat([self._batch(part, places.tolist()) for part, places in bar])

    def _batch(self, labels: Tensor, seeds: list[int]) -> Tensor:
        config, device = self.base.dit.config, self.base.dit.positions.device
        noise = seeded_noise(seeds, (config.in_channels, config.input_size, config.input_size))
        latents = sample(
            lambda x, t, y: self.base.dit(x, t, y, self.adapter),
            noise.to(device),
            labels.to(device),
            self.null_class,
            SamplingSettings(steps=self.steps, guidance_scale=self.guidance_scale),
            channels=config.guidance_channels,
        )
        pixels = self.base.autoencoder.decode(latents).cpu()
        return ((pixels.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def alike(labels: Tensor, count: int) -> Tensor:
    """`count` class ids, each class with the share that it has among the `labels`."""
    places = (torch.arange(count) + 0.5) * len(labels) / count
    return labels.sort().values[places.long()]
