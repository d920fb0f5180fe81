"""The trainer of one adapter. It can make an optimizer step in parts, so that serving and training share a device.

All trainable tensors are in one flat vector, so that an optimizer step, the moving average, gradient clipping and a
checkpoint are one operation each. The recipe follows DiT and DiffFit (arXiv 2304.06648, section 4 and appendix).
"""

import logging
import math
from collections.abc import Generator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from core.artifact.additions import Shapes
from core.artifact.sampling import SamplingSettings
from core.artifact.sites import CLASS_TABLE
from core.artifact.training import TrainingSettings
from core.ml import slices
from core.ml.diffusion.sampling import Model
from core.ml.errors import TrainingDiverged, TrainingOutOfMemory
from core.ml.model.adapter import TensorAdapter
from core.ml.model.device import is_out_of_memory, release_memory
from core.ml.model.dit import DiT
from core.ml.model.sizes import BatchSizes
from core.ml.tuning.batches import Batches, Rows
from core.ml.tuning.held_out import Best, evaluation_sample, held_out_parts
from core.ml.tuning.latents import Latents
from core.ml.tuning.parallel import ALONE, Processes
from core.ml.tuning.passes import Gradient, Learner, MicroBatch, PassCache
from core.ml.tuning.routes import MakeAdapter, route_of

logger = logging.getLogger(__name__)
MICRO_BATCH = "micro_batch_size"
"""Name in the state: the micro-batch size, which decides how the sums of a step are rounded."""


@dataclass(frozen=True)
class StepReport:
    """Measurements of one training step, taken before the step changes the weights."""

    step: int
    """Number of training steps done, including this step."""
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
        make_adapter: MakeAdapter = TensorAdapter,
        processes: Processes = ALONE,
        frozen: Mapping[str, Tensor] | None = None,
        max_rows: int | None = None,
        averaged_before: int = 0,
    ) -> None:
        """`tensors` are the start values of the trainable tensors, `frozen` the adapter's tensors that do not train.
        For methods that do not fold, `make_adapter` makes an adapter object of both for each forward pass. Each of the
        `processes` must make the same trainer. `max_rows` limits the rows when micro-batches of several trainers are
        computed together; by default it is the trainer's own micro-batch size. `averaged_before` is the number of steps
        whose moving average the start values are. Raises ValueError when a batch has fewer images than there are
        processes."""
        if settings.batch_size < processes.count:
            raise ValueError(f"{settings.batch_size} images per batch are too few for {processes.count} processes")
        self.dit, self.settings, self.processes, self.device = dit, settings, processes, dit.positions.device
        self.route = route_of(dit, [*tensors, *(frozen or {})], make_adapter)
        generator = torch.Generator().manual_seed(settings.seed)
        self.latents, self.held_out = latents.split(settings.held_out_fraction, generator)
        # An adapter without a class table uses the base's classes.
        table = {**(frozen or {}), **tensors}.get(CLASS_TABLE, dit.y_embedder.embedding_table.weight)
        self.null_class = len(table) - 1
        on_gpu = self.device.type == "cuda"
        self.batches = Batches(self.latents, settings, self.null_class, generator, pinned=on_gpu)
        flat = torch.cat([tensor.detach().float().flatten() for tensor in tensors.values()])
        shapes: Shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        self.learner = Learner(self.route, torch.nn.Parameter(flat), shapes, dict(frozen or {}))
        self.parameters, self.average = self.learner.parameters, flat.clone()
        self.optimizer: torch.optim.Optimizer = torch.optim.AdamW(
            [self.parameters],
            lr=settings.learning_rate,
            betas=(0.9, 0.999),
            weight_decay=0.0,
            **({"fused": True} if on_gpu else {"foreach": True}),
        )
        self.steps_done, self.best = 0, Best()
        self.steps_before = 0
        """Steps of the fine-tune that other trainers made before this one."""
        self.averaged_before = averaged_before
        self.sizes = BatchSizes(_halves(settings.micro_batch_size or settings.batch_size))
        """Micro-batch sizes: the max images that pass at once. Smaller for a while after memory ran out."""
        self.max_rows = max_rows or self.sizes.all[-1]
        self._passes = PassCache()

    @property
    def done(self) -> bool:
        return self.steps_done >= self.settings.steps or self.stopped_early

    @property
    def stopped_early(self) -> bool:
        """Whether `early_stopping` ended the training before its last step."""
        patience, best = self.settings.early_stopping, self.best
        waited = best.evaluated_step - best.step
        exhausted = patience is not None and best.step > 0 and waited >= patience * self.settings.evaluate_every
        return exhausted and self.steps_done < self.settings.steps

    def step(self) -> StepReport:
        """Makes one optimizer step. Raises TrainingDiverged when the loss or the gradient is not finite, and
        TrainingOutOfMemory when not even one image fits into memory. If it raises, the trainer's state is unchanged."""
        return slices.run(self.parts())

    def parts(self) -> Generator[MicroBatch, None, StepReport]:
        """Makes one optimizer step, and yields each micro-batch before it passes the model, so that the caller may
        compute it together with micro-batches of other trainers. Micro-batches that the caller did not compute are
        computed here. Raises the errors of `step`. If the generator is closed early, the trainer's state is
        unchanged."""
        drawn_before = self.batches.state()
        try:
            gradient = yield from self._gradient(self.batches.draw())
            if not all(map(math.isfinite, (gradient.mse, gradient.bound, gradient.norm))):
                raise TrainingDiverged(self.steps_done + 1)
        except BaseException:
            self.batches.restore(drawn_before)
            raise
        self._update(gradient)
        loss = gradient.mse + gradient.bound
        return StepReport(self.steps_done, loss, gradient.mse, gradient.bound, gradient.norm)

    @property
    def averaged(self) -> dict[str, Tensor]:
        """Tensors of the trained adapter by name: the latest moving averages of the trainable tensors, as views that
        change with the next training step, and the frozen tensors."""
        return self.learner.tensors(self.average)

    def sampled(self) -> tuple[Model, SamplingSettings]:
        """Returns the model with the latest moving average, and the sampling settings, for sample images."""
        return self.route.model(self.averaged), SamplingSettings(steps=20)

    def result(self) -> tuple[int, dict[str, Tensor]]:
        """Returns the training step that the adapter is of, and the adapter's tensors by name: those of the best moving
        average, if the settings ask for it and there was an evaluation, else those of the last."""
        if self.best.average is None:
            return self.steps_done, self.averaged
        return self.best.step, self.learner.tensors(self.best.average)

    def held_out_loss(
        self, tensors: Mapping[str, Tensor], null_class: int | None = None, *, repeats: int = 8, batch_size: int = 32
    ) -> float:
        """Returns the mean loss of an adapter on the held-out images; NaN if there are none. Empty `tensors` give the
        loss of the base. Timesteps and noise are fixed, so that losses of different adapters can be compared.

        If `null_class` is given, every image has that label instead of its own. Each image is evaluated at `repeats`
        stratified timesteps.
        """
        return slices.run(self.held_out_parts(tensors, null_class, repeats=repeats, batch_size=batch_size))

    def held_out_parts(
        self, tensors: Mapping[str, Tensor], null_class: int | None = None, *, repeats: int = 8, batch_size: int = 32
    ) -> Generator[None, None, float]:
        """Computes `held_out_loss`, and yields after each batch. Halves the batch when memory runs out."""
        model = self.route.model(tensors)
        sizes = {"repeats": repeats, "batch_size": batch_size}
        return held_out_parts(model, self.held_out, self.device, null_class, **sizes)

    @property
    def is_evaluation_due(self) -> bool:
        """Whether the moving average has to be evaluated before the next training step."""
        every, step = self.settings.evaluate_every, self.steps_done
        due = bool(every) and (step % every == 0 or step >= self.settings.steps)
        return due and step > self.best.evaluated_step and len(self.held_out) > 0

    def evaluation_parts(self, batch_size: int = 32) -> Generator[None, None, float]:
        """Computes and returns the held-out loss of the moving average, and keeps the moving average if it is the best.
        Yields after each batch."""
        images, repeats = evaluation_sample(self.held_out, self.settings)
        sizes = {"repeats": repeats, "batch_size": batch_size}
        loss = yield from held_out_parts(self.route.model(self.averaged), images, self.device, **sizes)
        # Processes may round differently, but all must decide alike whether to stop.
        total = self.processes.summed(torch.tensor(loss, dtype=torch.float64, device=self.device))
        loss = total.item() / self.processes.count
        self.best.add(self.steps_done, loss, self.average if self.settings.keeps_best else None)
        return loss

    def state(self) -> dict[str, Tensor]:
        """Returns copies of all tensors that an exact resume needs, for a checkpoint: parameters, moving average, the
        optimizer's moments, the number of steps, the micro-batch size, the state of the batches, and the best moving
        average."""
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
            MICRO_BATCH: torch.tensor(self.sizes.all[-1]),
            **self.batches.state(),
            **self.best.state(),
        }

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Restores a state that `state()` returned. With the same micro-batch size, the training steps that follow are
        then bit-identical on a CPU, and equal up to rounding on a GPU."""
        self.parameters.data.copy_(state["parameters"])
        self.average.copy_(state["average"])
        self.steps_done = int(state["steps_done"])
        if self.steps_done:
            self.optimizer.state[self.parameters] = {
                "step": torch.tensor(float(self.steps_done), device=self.device),  # fused AdamW wants it on the device
                "exp_avg": state["first_moment"].to(self.device, copy=True),
                "exp_avg_sq": state["second_moment"].to(self.device, copy=True),
            }
        self.batches.restore(state)
        self.best = Best.of(state, self.device)

    def _gradient(self, batch: Rows) -> Generator[MicroBatch, None, Gradient]:
        """Computes and returns the gradient of the batch's mean loss, summed over all processes. Yields each
        micro-batch before it is computed."""
        own = batch.part(self.processes.share)
        total, mse, bound, done = torch.zeros((), device=self.device), 0.0, 0.0, 0
        while done < len(own.t):
            micro_batch = self._micro_batch(own.part(slice(done, done + self.sizes.in_use[-1])))
            yield micro_batch
            try:
                gradient = micro_batch.compute()
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
            else:
                self.sizes.count_fit()
                done += len(micro_batch.rows.t)
                if done == len(batch.t) == len(micro_batch.rows.t):  # the micro-batch is the whole batch
                    return gradient
                total = total + gradient.flat
                mse, bound = mse + gradient.mse, bound + gradient.bound
                continue
            self._shrink()
        total = self.processes.summed(total)
        mse, bound = self.processes.summed(torch.tensor([mse, bound], device=self.device)).tolist()
        return Gradient(total, mse, bound, total.norm().item())

    def _micro_batch(self, rows: Rows) -> MicroBatch:
        return MicroBatch(self.learner, rows, self.max_rows, self._passes, self._draw_ahead)

    def _draw_ahead(self) -> None:
        if self.steps_done + 1 < self.settings.steps:
            self.batches.draw_ahead()

    def _shrink(self) -> None:
        """Halves the micro-batch size after memory ran out. Raises TrainingOutOfMemory when it is one image already."""
        self._passes.clear()
        release_memory()
        sizes = self.sizes.in_use
        if len(sizes) == 1:
            raise TrainingOutOfMemory()
        logger.warning("out of memory with %d images at once: at most %d for a while", *sizes[:-3:-1])
        self.sizes.shrink_to(len(sizes) - 1)

    def _update(self, gradient: Gradient) -> None:
        settings = self.settings
        if settings.gradient_clip is not None and gradient.norm > settings.gradient_clip:
            gradient.flat.mul_(settings.gradient_clip / (gradient.norm + 1e-6))
        self.optimizer.param_groups[0]["lr"] = settings.learning_rate * self._rate(self.steps_done)
        self.parameters.grad = gradient.flat
        self.optimizer.step()
        self.parameters.grad = None
        self.steps_done += 1
        # The decay starts small: with a constant 0.9999, the start values would still weigh 90 % after 1,000 steps.
        averaged = self.averaged_before + self.steps_done
        decay = min(settings.ema_decay, (1 + averaged) / (10 + averaged))
        self.average.lerp_(self.parameters.detach(), 1 - decay)

    def _rate(self, step: int) -> float:
        settings = self.settings
        rising = (step + 1) / settings.warmup_steps if settings.warmup_steps else 1.0
        falling = (settings.steps - step) / settings.decay_steps if settings.decay_steps else 1.0
        return min(1.0, rising, falling)


def _halves(images: int) -> list[int]:
    """Returns `images` and its successive halves (rounded up) down to 1, in descending order."""
    sizes = [images]
    while sizes[-1] > 1:
        sizes.append(-(-sizes[-1] // 2))
    return sizes
