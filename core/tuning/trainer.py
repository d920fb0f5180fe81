"""The trainer: one `step()` at a time, and that in parts, so that serving and training can share a device.

All trainables lie in one flat vector. An optimizer step, the moving average, gradient clipping and a checkpoint are
then each one operation on it. The recipe is DiT's and DiffFit's (arXiv 2304.06648, section 4 and appendix).
"""

import logging
import math
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass

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
from core.tuning.batches import Batches
from core.tuning.latents import Latents
from core.tuning.parallel import ALONE, Processes
from core.tuning.settings import TrainingSettings

logger = logging.getLogger(__name__)


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
        generator = torch.Generator().manual_seed(settings.seed)
        self.latents, self.held_out = latents.split(settings.held_out_fraction, generator)
        # Without a table the base's classes stay.
        table = {**self.frozen, **tensors}.get(CLASS_TABLE, dit.y_embedder.embedding_table.weight)
        self.null_class = len(table) - 1
        self.batches = Batches(self.latents, settings, self.null_class, generator)
        flat = torch.cat([tensor.detach().float().flatten() for tensor in tensors.values()])
        self.parameters = torch.nn.Parameter(flat)
        self.average = flat.clone()
        self.optimizer = torch.optim.AdamW(
            [self.parameters], lr=settings.learning_rate, betas=(0.9, 0.999), weight_decay=0.0, foreach=True
        )
        self.steps_done = 0
        self.sizes = BatchSizes(_halves(settings.micro_batch_size or settings.batch_size))
        """Images that pass at once: fewer for a while after memory ran out."""
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
        drawn_before = self.batches.state()
        try:
            x0, labels, t, noise = self.batches.draw()
            gradient, mse, bound = yield from self._gradient(x0, labels, t, noise)
            norm = gradient.norm()
            if not (math.isfinite(mse + bound) and math.isfinite(norm.item())):
                raise TrainingDiverged(self.steps_done + 1)
        except BaseException:
            self.batches.restore(drawn_before)
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
        """`held_out_loss` that yields after each batch. A batch is halved when memory runs out."""
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
        rows = torch.arange(len(indices))
        while len(rows):
            part = rows[:batch_size]
            try:
                mse, bound = self._losses(adapter, x0[part], labels[part], t[part], noise[part], self.dit)
            except (RuntimeError, MemoryError) as error:
                if len(part) == 1 or not is_out_of_memory(error):
                    raise
                batch_size = len(part) // 2
            else:
                total += (mse + bound).sum().item()
                rows = rows[len(part) :]
                yield
                continue
            release_memory()
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
            **self.batches.state(),
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
        self.batches.restore(state)

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

    def _views(self, flat: Tensor) -> dict[str, Tensor]:
        parts = flat.split([math.prod(shape) for shape in self.shapes.values()])
        return {name: part.view(shape) for (name, shape), part in zip(self.shapes.items(), parts, strict=True)}


def _halves(images: int) -> list[int]:
    """From 1 to `images`, each about half of the next."""
    sizes = [images]
    while sizes[-1] > 1:
        sizes.append(-(-sizes[-1] // 2))
    return sizes
