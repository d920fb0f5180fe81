"""The batches of a training run: which images, labels, timesteps and noise each step sees."""

from collections.abc import Mapping

import torch
from torch import Tensor

from core.diffusion.timesteps import TIMESTEPS
from core.tuning.latents import Latents
from core.tuning.settings import TrainingSettings


class Batches:
    """Draws one batch after the other. `generator` decides all of it; `null_class` is the label that drops another."""

    def __init__(
        self, latents: Latents, settings: TrainingSettings, null_class: int, generator: torch.Generator
    ) -> None:
        self.latents, self.settings, self.null_class, self.generator = latents, settings, null_class, generator
        self._order = torch.empty(0, dtype=torch.long)

    def state(self) -> dict[str, Tensor]:
        """Decides every batch that follows."""
        return {"generator": self.generator.get_state(), "order": self._order.clone()}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        self.generator.set_state(state["generator"])
        self._order = state["order"].clone()

    def draw(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Latents and noise [B, C, H, W], labels [B], some of them dropped, and timesteps [B]."""
        indices = self._next_indices()
        x0, labels = self._samples(indices)
        dropped = torch.rand(len(indices), generator=self.generator) < self.settings.label_dropout
        labels = labels.masked_fill(dropped, self.null_class)  # one draw a sample
        t = self._timesteps(len(indices))
        return x0, labels, t, torch.randn(x0.shape, generator=self.generator)

    def _next_indices(self) -> Tensor:
        if self.settings.sampling == "balanced":
            return self._balanced_indices()
        size = self.settings.batch_size
        while len(self._order) < size:
            self._order = torch.cat([self._order, torch.randperm(len(self.latents), generator=self.generator)])
        indices, self._order = self._order[:size], self._order[size:]
        return indices

    def _timesteps(self, count: int) -> Tensor:
        if self.settings.timesteps == "independent":
            return torch.randint(0, TIMESTEPS, (count,), generator=self.generator)
        # The images come in random order, so that the parts need not.
        places = (torch.arange(count) + torch.rand(count, generator=self.generator)) / count
        if self.settings.timesteps == "focused":
            places = torch.where(places < 0.85, places / 0.85 * 0.6, 0.6 + (places - 0.85) / 0.15 * 0.4)
        return (places * TIMESTEPS).long().clamp(max=TIMESTEPS - 1)

    def _balanced_indices(self) -> Tensor:
        labels = self.latents.labels
        weights = 1.0 / labels.bincount().float()[labels]
        return torch.multinomial(weights, self.settings.batch_size, replacement=True, generator=self.generator)

    def _samples(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """A fresh sample of the posterior of each image or, for half of them, of its mirror image."""
        flipped = torch.randint(0, 2, (len(indices),), generator=self.generator)
        mean, deviation = self.latents.mean[flipped, indices], self.latents.deviation[flipped, indices]
        noise = torch.randn(mean.shape, generator=self.generator)
        return mean + deviation * noise, self.latents.labels[indices]
