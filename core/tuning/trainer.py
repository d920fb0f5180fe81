"""The trainer: one `step()` at a time, and that in parts, so that serving and training can share a device.

All trainables lie in one flat vector. An optimizer step, the moving average, gradient clipping and a checkpoint are
then each one operation on it. The recipe is DiT's and DiffFit's (arXiv 2304.06648, section 4 and appendix).
"""

import logging
import math
from collections.abc import Callable, Generator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from core import slices
from core.artifact.additions import Shapes
from core.artifact.sites import CLASS_TABLE
from core.diffusion.loss import diffusion_loss
from core.diffusion.schedule import SCHEDULE
from core.diffusion.timesteps import TIMESTEPS
from core.errors import TrainingDiverged, TrainingOutOfMemory
from core.model.adapter import Adapter, TensorAdapter
from core.model.device import is_out_of_memory, release_memory
from core.model.dit import DiT
from core.model.sizes import BatchSizes
from core.tuning.latents import Latents
from core.tuning.parallel import ALONE, Processes

logger = logging.getLogger(__name__)

PRETRAINING_RATE = 1e-4
"""The rate of DiT's pre-training and of full fine-tuning. The paper gives the others as ratios to it (Table 4d)."""


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """The paper's recipe by default, with fewer steps and a smaller batch."""

    steps: int
    batch_size: int = 32
    learning_rate: float = 10 * PRETRAINING_RATE
    """Constant after `warmup_steps`: the paper's for parameter-efficient methods."""
    warmup_steps: int = 0
    decay_steps: int = 0
    """The rate falls linearly to zero over this many last steps."""
    label_dropout: float = 0.1
    ema_decay: float = 0.9999
    gradient_clip: float | None = None
    """Largest norm of the gradient of all trainables together."""
    minimum_snr_gamma: float | None = None
    """Weights the squared error by min(SNR, gamma) / SNR (arXiv 2303.09556); None is the paper's plain mean."""
    timesteps: Literal["independent", "stratified", "focused"] = "independent"
    """"stratified" draws one timestep from each of `batch_size` equal parts: the same distribution, less noise in the
    gradient (arXiv 2107.00630, appendix I.1). "focused" gives 85 % of these parts to the timesteps below 600, in
    which an image takes shape: above, where noise is nearly all, a model soon learns what there is (arXiv 2405.17403).
    """
    sampling: Literal["shuffled", "balanced"] = "shuffled"
    """"shuffled" goes through the data again and again in new orders; "balanced" draws a class, then an image."""
    held_out_fraction: float = 0.1
    micro_batch_size: int | None = None
    """Images of a batch that pass at once, at most: a smaller number needs less memory, and gradients are summed. The
    sums' rounding is all that it changes."""
    seed: int = 0

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class StepReport:
    """What one step saw, before its update."""

    step: int
    """Steps done, this one included."""
    loss: float
    mse: float
    bound: float
    gradient_norm: float


class Trainer:
    """Trains the tensors of one adapter on a frozen base."""

    def __init__(
        self,
        dit: DiT,
        tensors: Mapping[str, Tensor],
        latents: Latents,
        settings: TrainingSettings,
        make_adapter: Callable[[Mapping[str, Tensor]], Adapter] = TensorAdapter,
        processes: Processes = ALONE,
        compiled: bool = False,
        frozen: Mapping[str, Tensor] | None = None,
    ) -> None:
        """`tensors` are where it starts; `make_adapter` makes of them, as they become, and of those that are `frozen`
        what the model asks. Every one of the `processes` makes the same trainer. `compiled` traces the forward and its
        backward pass at the first step, which takes a minute or more, with torch.compile. Raises ValueError when a
        batch has not an image for each process."""
        if settings.batch_size < processes.count:
            raise ValueError(f"{settings.batch_size} images a batch are too few for {processes.count} processes")
        self.dit = dit
        self._forward = torch.compile(dit) if compiled else dit
        self.settings = settings
        self.processes = processes
        self.make_adapter = make_adapter
        self.frozen = dict(frozen or {})
        self.shapes: Shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        self.device = dit.positions.device
        self.generator = torch.Generator().manual_seed(settings.seed)
        self.latents, self.held_out = latents.split(settings.held_out_fraction, self.generator)
        # Without a table the base's classes stay.
        table = {**self.frozen, **tensors}.get(CLASS_TABLE, dit.y_embedder.embedding_table.weight)
        self.null_class = len(table) - 1
        flat = torch.cat([tensor.detach().float().flatten() for tensor in tensors.values()])
        self.parameters = torch.nn.Parameter(flat)
        self.average = flat.clone()
        self.optimizer = torch.optim.AdamW(
            [self.parameters], lr=settings.learning_rate, betas=(0.9, 0.999), weight_decay=0.0, foreach=True
        )
        self.steps_done = 0
        self.sizes = BatchSizes(_halves(settings.micro_batch_size or settings.batch_size))
        """Images that pass at once: fewer for a while after memory ran out."""
        self._order = torch.empty(0, dtype=torch.long)
        self._snr = SCHEDULE.signal_to_noise.float()

    @property
    def done(self) -> bool:
        return self.steps_done >= self.settings.steps

    def step(self) -> StepReport:
        """One optimizer step. Raises TrainingDiverged when the loss or a gradient is not finite, TrainingOutOfMemory
        when not even one image fits into memory; nothing is changed by such a step, so the last checkpoint stays good.
        """
        return slices.run(self.parts())

    def parts(self) -> Generator[None, None, StepReport]:
        """One optimizer step that yields after each micro-batch. Raises as `step` does; what is closed before its end
        has changed nothing either."""
        drawn_before = self.generator.get_state(), self._order
        try:
            x0, labels, t, noise = self._draw_batch()
            gradient, mse, bound = yield from self._gradient(x0, labels, t, noise)
            norm = gradient.norm()
            if not (math.isfinite(mse + bound) and math.isfinite(norm.item())):
                raise TrainingDiverged(self.steps_done + 1)
        except BaseException:
            self.generator.set_state(drawn_before[0])
            self._order = drawn_before[1]
            raise
        self._update(gradient, norm)
        return StepReport(self.steps_done, mse + bound, mse, bound, norm.item())

    def adapter(self, *, averaged: bool = False) -> Adapter:
        """The adapter as it trains, or with the moving average, as it will be stored."""
        return self.make_adapter(self._views(self.average if averaged else self.parameters) | self.frozen)

    def tensors(self) -> dict[str, Tensor]:
        """The moving average of every trainable, and what is frozen, by name: what an artifact holds."""
        return {name: view.clone() for name, view in (self._views(self.average) | self.frozen).items()}

    def held_out_loss(
        self, adapter: Adapter, null_class: int | None = None, *, repeats: int = 8, batch_size: int = 32
    ) -> float:
        """Loss of an adapter on the held-out images with fixed timesteps and noise, so that values compare.

        With `null_class` every image takes that label. `repeats` stratified timesteps an image.
        """
        return slices.run(self.held_out_parts(adapter, null_class, repeats=repeats, batch_size=batch_size))

    @torch.no_grad()
    def held_out_parts(
        self, adapter: Adapter, null_class: int | None = None, *, repeats: int = 8, batch_size: int = 32
    ) -> Generator[None, None, float]:
        """`held_out_loss` that yields after each batch."""
        if not len(self.held_out):
            return math.nan
        generator = torch.Generator().manual_seed(0)
        indices = torch.arange(len(self.held_out)).repeat_interleave(repeats)
        strata = torch.arange(len(indices)) % repeats
        t = ((strata + torch.rand(len(indices), generator=generator)) * (TIMESTEPS / repeats)).long()
        flipped = torch.zeros(len(indices), dtype=torch.long)
        x0, labels = self.held_out.mean[flipped, indices], self.held_out.labels[indices]
        noise = torch.randn(x0.shape, generator=generator)
        if null_class is not None:
            labels = torch.full_like(labels, null_class)
        total = 0.0
        for part in torch.arange(len(indices)).split(batch_size):
            mse, bound = self._losses(adapter, x0[part], labels[part], t[part], noise[part], self.dit)
            total += (mse + bound).sum().item()
            yield
        return total / len(indices)

    def state(self) -> dict[str, Tensor]:
        """Everything that an exact resume needs, as tensors of its own: a checkpoint without pickle."""
        optimizer = self.optimizer.state.get(self.parameters, {})
        zeros = torch.zeros_like(self.average)
        on_device = {
            "parameters": self.parameters.detach(),
            "average": self.average,
            "first_moment": optimizer.get("exp_avg", zeros),
            "second_moment": optimizer.get("exp_avg_sq", zeros),
        }
        return {
            **{name: tensor.to("cpu", copy=True) for name, tensor in on_device.items()},
            "steps_done": torch.tensor(self.steps_done),
            "generator": self.generator.get_state(),
            "order": self._order.clone(),
        }

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Continues where `state()` was taken: the same steps follow, bit for bit."""
        self.parameters.data.copy_(state["parameters"])
        self.average.copy_(state["average"])
        self.steps_done = int(state["steps_done"])
        if self.steps_done:
            self.optimizer.state[self.parameters] = {
                "step": torch.tensor(float(self.steps_done)),
                "exp_avg": state["first_moment"].to(self.device, copy=True),
                "exp_avg_sq": state["second_moment"].to(self.device, copy=True),
            }
        self.generator.set_state(state["generator"])
        self._order = state["order"].clone()

    def _draw_batch(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Latents and noise [B, C, H, W], labels [B], some of them dropped, and timesteps [B]."""
        indices = self._next_indices()
        x0, labels = self._draw(self.latents, indices)
        dropped = torch.rand(len(indices), generator=self.generator) < self.settings.label_dropout
        labels = labels.masked_fill(dropped, self.null_class)  # one draw a sample
        t = self._timesteps(len(indices))
        return x0, labels, t, torch.randn(x0.shape, generator=self.generator)

    def _gradient(
        self, x0: Tensor, labels: Tensor, t: Tensor, noise: Tensor
    ) -> Generator[None, None, tuple[Tensor, float, float]]:
        """Of the batch's mean loss, and the means of its two terms: over all processes and micro-batches."""
        gradient, terms = torch.zeros_like(self.parameters), torch.zeros(2, device=self.device)
        rows = self.processes.share(len(t))
        while len(rows):
            part = rows[: self.sizes.in_use[-1]]
            try:
                part_gradient, part_terms = self._part_gradient(x0[part], labels[part], t[part], noise[part], len(t))
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
            else:
                gradient += part_gradient
                terms += part_terms
                rows = rows[len(part) :]
                if len(rows):
                    yield
                continue
            self._shrink()
        mse_mean, bound_mean = self.processes.summed(terms).tolist()
        return self.processes.summed(gradient), mse_mean, bound_mean

    def _part_gradient(self, x0: Tensor, labels: Tensor, t: Tensor, noise: Tensor, batch: int) -> tuple[Tensor, Tensor]:
        """A micro-batch's part of the gradient and of the two terms [2]."""
        mse, bound = self._losses(self.adapter(), x0, labels, t, noise, self._forward)
        loss = (mse * self._weights(t)).mean() + bound.mean()
        (gradient,) = torch.autograd.grad(loss * (len(t) / batch), [self.parameters])
        self.sizes.count_fit()
        return gradient, torch.stack([mse.sum(), bound.sum()]).detach() / batch

    def _shrink(self) -> None:
        """Halves the micro-batch after memory ran out. Raises TrainingOutOfMemory when it is one image already."""
        release_memory()
        sizes = self.sizes.in_use
        if len(sizes) == 1:
            raise TrainingOutOfMemory()
        logger.warning("out of memory with %d images at once: at most %d for a while", *sizes[:-3:-1])
        self.sizes.shrink_to(len(sizes) - 1)

    def _losses(
        self, adapter: Adapter, x0: Tensor, labels: Tensor, t: Tensor, noise: Tensor, forward: Callable[..., Tensor]
    ) -> tuple[Tensor, Tensor]:
        x0, labels, t, noise = (tensor.to(self.device) for tensor in (x0, labels, t, noise))
        output = forward(SCHEDULE.add_noise(x0, noise, t), t, labels, adapter)
        loss = diffusion_loss(output, x0, noise, t, SCHEDULE)
        return loss.mse, loss.bound

    def _weights(self, t: Tensor) -> Tensor:
        gamma = self.settings.minimum_snr_gamma
        if gamma is None:
            return torch.ones(len(t), device=self.device)
        snr = self._snr[t]
        return (snr.clamp(max=gamma) / snr).to(self.device)

    def _update(self, gradient: Tensor, norm: Tensor) -> None:
        settings = self.settings
        if settings.gradient_clip is not None:
            gradient = gradient * (settings.gradient_clip / (norm + 1e-6)).clamp(max=1.0)
        self.optimizer.param_groups[0]["lr"] = settings.learning_rate * self._rate(self.steps_done)
        self.parameters.grad = gradient
        self.optimizer.step()
        self.parameters.grad = None
        self.steps_done += 1
        # A short warm-up: 0.9999 alone would keep 90 % of the start after 1,000 steps.
        decay = min(settings.ema_decay, (1 + self.steps_done) / (10 + self.steps_done))
        self.average.lerp_(self.parameters.detach(), 1 - decay)

    def _rate(self, step: int) -> float:
        settings = self.settings
        rising = (step + 1) / settings.warmup_steps if settings.warmup_steps else 1.0
        falling = (settings.steps - step) / settings.decay_steps if settings.decay_steps else 1.0
        return min(1.0, rising, falling)

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

    def _draw(self, latents: Latents, indices: Tensor) -> tuple[Tensor, Tensor]:
        """A fresh sample of the posterior of each image or, for half of them, of its mirror image."""
        flipped = torch.randint(0, 2, (len(indices),), generator=self.generator)
        mean, deviation = latents.mean[flipped, indices], latents.deviation[flipped, indices]
        noise = torch.randn(mean.shape, generator=self.generator)
        return mean + deviation * noise, latents.labels[indices]

    def _views(self, flat: Tensor) -> dict[str, Tensor]:
        parts = flat.split([math.prod(shape) for shape in self.shapes.values()])
        return {name: part.view(shape) for (name, shape), part in zip(self.shapes.items(), parts, strict=True)}


def _halves(images: int) -> list[int]:
    """From 1 to `images`, each about half of the next."""
    sizes = [images]
    while sizes[-1] > 1:
        sizes.append(-(-sizes[-1] // 2))
    return sizes
