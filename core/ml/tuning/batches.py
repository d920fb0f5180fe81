"""Draws the training batches: the images, labels, timesteps and noise of each training step."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from core.artifact.sampling import TIMESTEPS
from core.artifact.training import TrainingSettings
from core.ml.diffusion.schedule import SCHEDULE
from core.ml.tuning.latents import Latents


class Rows(NamedTuple):
    """Training batch, or a part of one. One row is one training image at one timestep.

    Letters in shapes: B rows, C latent channels, H and W latent height and width.
    """

    x0: Tensor
    """[B, C, H, W] latents of the training images"""
    labels: Tensor
    """[B] class labels, some of them replaced by the null class (label dropout)"""
    t: Tensor
    """[B] timesteps"""
    noise: Tensor
    """[B, C, H, W] noise that is added to the latents"""
    weights: Tensor
    """[B] weight of each row's squared error in the loss"""
    fractions: Tensor
    """[B] 1 / size of the whole batch, so that the losses of a batch's parts add up to the batch's mean loss"""

    def part(self, which: slice) -> "Rows":
        return Rows(*(tensor[which] for tensor in self))


class Batches:
    """Draws one training batch after another, on the device of the latents and the generator. All random choices come
    from `generator`, so the same generator state gives the same batches. `null_class` is the label that replaces
    dropped labels."""

    def __init__(
        self,
        latents: Latents,
        settings: TrainingSettings,
        null_class: int,
        generator: torch.Generator,
        *,
        pinned: bool = False,
    ) -> None:
        """`pinned` returns batches in page-locked memory, from which a GPU can copy asynchronously."""
        self.latents, self.settings, self.null_class, self.generator = latents, settings, null_class, generator
        self.pinned = pinned
        self._order = torch.empty(0, dtype=torch.long)
        self._ahead: tuple[dict[str, Tensor], Rows] | None = None
        self._snr = SCHEDULE.signal_to_noise.float().to(generator.device)
        self._balance = 1.0 / latents.labels.bincount().float()[latents.labels]
        """[K] weight of each image in balanced sampling"""

    def state(self) -> dict[str, Tensor]:
        """Returns the state that determines all following batches, for a checkpoint. If a batch was drawn ahead, this
        is the state from before that batch."""
        if self._ahead is not None:
            return {name: tensor.clone() for name, tensor in self._ahead[0].items()}
        return {"generator": self.generator.get_state(), "order": self._order.clone()}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        self._ahead = None
        self.generator.set_state(state["generator"])
        self._order = state["order"].clone()

    def draw_ahead(self) -> None:
        """Draws the batch that the next `draw` will return, so that the host can do this while the device computes."""
        if self._ahead is None:
            state = self.state()
            try:
                self._ahead = state, self._next()
            except BaseException:  # for example when memory ran out: the next try draws the same batch
                self.restore(state)
                raise

    def draw(self) -> Rows:
        rows = self._next() if self._ahead is None else self._ahead[1]
        self._ahead = None
        return rows

    def _next(self) -> Rows:
        indices = self._next_indices()
        x0, labels = self._samples(indices)
        dropped = self._uniform(len(indices)) < self.settings.label_dropout
        labels = labels.masked_fill(dropped, self.null_class)  # one random number per training image
        t = self._timesteps(len(indices))
        noise = self._normal(x0.shape)
        weights = self._weights(t)
        fractions = torch.full_like(weights, 1 / len(t))
        rows = Rows(x0=x0, labels=labels, t=t, noise=noise, weights=weights, fractions=fractions)
        return Rows(*(tensor.pin_memory() for tensor in rows)) if self.pinned else rows

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
            return self._integers(TIMESTEPS, count)
        # Timestep k comes from the k-th of `count` equal parts. The images are shuffled, so the parts need not be.
        drawn = self._uniform(count)
        places = (torch.arange(count, device=drawn.device) + drawn) / count
        if self.settings.timesteps == "focused":
            places = torch.where(places < 0.85, places / 0.85 * 0.6, 0.6 + (places - 0.85) / 0.15 * 0.4)
        return (places * TIMESTEPS).long().clamp(max=TIMESTEPS - 1)

    def _weights(self, t: Tensor) -> Tensor:
        gamma = self.settings.minimum_snr_gamma
        snr = self._snr[t]
        return torch.ones_like(snr) if gamma is None else snr.clamp(max=gamma) / snr

    def _balanced_indices(self) -> Tensor:
        return torch.multinomial(self._balance, self.settings.batch_size, replacement=True, generator=self.generator)

    def _samples(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Returns latents and labels of the images at `indices`. Each latent is a fresh sample of the autoencoder's
        posterior of the image or, with probability 1/2, of its mirror image."""
        flipped = self._integers(2, len(indices))
        mean, deviation = self.latents.mean[flipped, indices], self.latents.deviation[flipped, indices]
        return mean + deviation * self._normal(mean.shape), self.latents.labels[indices]

    def _uniform(self, count: int) -> Tensor:
        return torch.rand(count, generator=self.generator, device=self.generator.device)

    def _normal(self, shape: torch.Size) -> Tensor:
        return torch.randn(shape, generator=self.generator, device=self.generator.device)

    def _integers(self, end: int, count: int) -> Tensor:
        return torch.randint(0, end, (count,), generator=self.generator, device=self.generator.device)
