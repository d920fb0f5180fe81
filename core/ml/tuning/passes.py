"""Forward and backward passes of training, for the rows of one trainer or of several trainers together.

Rows of several adapters can pass the frozen base as one batch. Each row has its own loss, and each adapter's gradient
is a sum over its own rows, so one backward pass gives the gradients of all adapters. On a CPU, a gradient from such a
shared pass is bit-identical to one from a separate pass, if every trainer has at least two rows and the hidden size is
a multiple of 32. (For a single row, the CPU library uses a matrix-vector product, and the last numbers of other sizes
are not computed by vector instructions; both round differently.) A single row on a CPU therefore passes alone.

Letters in shapes: B rows, K trainers, C latent channels, H and W latent height and width.
"""

import itertools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from core.artifact.additions import Shapes
from core.ml.diffusion.loss import diffusion_loss
from core.ml.diffusion.sampling import Model
from core.ml.diffusion.schedule import schedule_on
from core.ml.slices import Joint
from core.ml.tuning.batches import Rows
from core.ml.tuning.capture import Replayed, capture_for
from core.ml.tuning.guidance import Teacher
from core.ml.tuning.routes import Route

KEPT_PASSES = 12
"""Max passes (buffers, and CUDA graphs on a GPU) that a trainer caches. Each combination of trainers and row counts
needs its own pass. The number leaves room for the pass of all trainers, and for passes without a trainer that is
generating its sample images."""


class Gradient(NamedTuple):
    """Gradient of a batch's mean loss, or of the part of that loss that comes from a micro-batch."""

    flat: Tensor
    """Gradient as a flat vector on the device. The next pass may overwrite it."""
    mse: float
    bound: float
    norm: float
    """L2 norm of `flat`"""


@dataclass(frozen=True, eq=False)
class Learner:
    """Trainable tensors of one adapter as a flat parameter vector, and the route by which the model uses them. `frozen`
    are tensors of the adapter that do not train."""

    route: Route
    parameters: torch.nn.Parameter
    shapes: Shapes
    frozen: Mapping[str, Tensor]
    teacher: Teacher | None = None
    """Teacher whose guided predictions the tensors learn; None learns from the images."""
    number: int = field(default_factory=itertools.count().__next__)
    """Creation order. Passes sort their trainers by it, so that the same trainers always share one CUDA graph."""

    def tensors(self, flat: Tensor | None = None) -> dict[str, Tensor]:
        """Returns the adapter's tensors by name: views of `flat` (by default the parameters), and the frozen
        tensors."""
        vector = self.parameters if flat is None else flat
        parts = vector.split([math.prod(shape) for shape in self.shapes.values()])
        views = {name: part.view(shape) for (name, shape), part in zip(self.shapes.items(), parts, strict=True)}
        return views | dict(self.frozen)


@dataclass(eq=False)
class MicroBatch(Joint):
    """Rows of one trainer that pass the model at once, possibly together with micro-batches of other trainers."""

    learner: Learner
    rows: Rows
    max_rows: int
    """Max rows of a pass that this micro-batch is part of, counting the rows of all trainers."""
    passes: "PassCache"
    on_launched: Callable[[], None]
    """Called right after the pass was launched, while the device computes."""
    gradient: Gradient | None = None
    """The result, once it is computed."""
    seconds: float = 0.0
    """This micro-batch's part of the device time of a pass together with other trainers."""

    def joins(self, group: Sequence[Joint]) -> bool:
        others = [other for other in group if isinstance(other, MicroBatch) and self._matches(other)]
        members = [self, *others]
        counts = [len(batch.rows.t) for batch in members]
        fits = sum(counts) <= min(batch.max_rows for batch in members)
        is_exact = min(counts) > 1 or self.learner.parameters.device.type != "cpu"  # see the module's docstring
        return len(others) == len(group) and fits and is_exact

    def compute_with(self, others: Sequence[Joint]) -> None:
        batches = [self, *(other for other in others if isinstance(other, MicroBatch))]
        batches.sort(key=lambda batch: batch.learner.number)
        started = time.perf_counter()
        gradients = _compute(batches)
        seconds = (time.perf_counter() - started) / sum(len(batch.rows.t) for batch in batches)
        for batch, gradient in zip(batches, gradients, strict=True):
            batch.gradient, batch.seconds = gradient, seconds * len(batch.rows.t)

    def compute(self) -> Gradient:
        """Returns the gradient. Computes it now, unless a pass together with other micro-batches has computed it
        already. Raises the device's errors."""
        if self.gradient is None:
            (self.gradient,) = _compute([self])
        return self.gradient

    def _matches(self, other: "MicroBatch") -> bool:
        route, theirs = self.learner.route, other.learner.route
        same = self.rows.x0.shape[1:] == other.rows.x0.shape[1:]
        from_images = self.learner.teacher is None and other.learner.teacher is None
        return route.shares and theirs.shares and route.dit is theirs.dit and same and from_images


def _compute(batches: Sequence[MicroBatch]) -> list[Gradient]:
    gradients, terms = batches[0].passes.get(batches)(batches)
    for batch in batches:
        batch.on_launched()
    values = terms.tolist()  # the only synchronization
    return [Gradient(flat, *numbers) for flat, numbers in zip(gradients, values, strict=True)]


class Pass:
    """Forward and backward pass for a fixed combination of trainers and row counts, over fixed buffers."""

    def __init__(self, batches: Sequence[MicroBatch]) -> None:
        self.learners = [batch.learner for batch in batches]
        self.counts = [len(batch.rows.t) for batch in batches]
        device, total = self.learners[0].parameters.device, sum(self.counts)
        like = batches[0].rows
        self.buffers = Rows(*(tensor.new_empty(total, *tensor.shape[1:], device=device) for tensor in like))
        self._replayed = Replayed(self._gradients, capture_for(device))

    def __call__(self, batches: Sequence[MicroBatch]) -> tuple[Sequence[Tensor], Tensor]:
        """Copies the rows into the buffers and computes the pass. Returns each trainer's gradient, and a tensor [K, 3]
        with each trainer's mean squared error, variational bound and gradient norm, all on the device."""
        for buffer, parts in zip(self.buffers, zip(*(batch.rows for batch in batches), strict=True), strict=True):
            for place, part in zip(buffer.split(self.counts), parts, strict=True):
                place.copy_(part, non_blocking=True)
        return self._replayed()

    def _gradients(self) -> tuple[Sequence[Tensor], Tensor]:
        adapters = [(learner.tensors(), count) for learner, count in zip(self.learners, self.counts, strict=True)]
        rows, teacher = self.buffers, self.learners[0].teacher
        model = self.learners[0].route.joint_model(adapters)
        if teacher is None:
            mse, bound = row_losses(model, rows.x0, rows.labels, rows.t, rows.noise)
        else:
            mse, bound = teacher.losses(model, rows)
        parameters = [learner.parameters for learner in self.learners]
        gradients = torch.autograd.grad(mse * rows.weights + bound, parameters, grad_outputs=rows.fractions)
        terms = [(values.detach() * rows.fractions).split(self.counts) for values in (mse, bound)]
        sums = [torch.stack([part.sum() for part in parts]) for parts in terms]
        return gradients, torch.stack([*sums, torch.stack([batch.norm() for batch in gradients])], 1)


@dataclass
class PassCache:
    """The most recently used passes that begin with one trainer, of that trainer alone or together with others."""

    _passes: dict[tuple[object, ...], Pass] = field(default_factory=dict)

    def get(self, batches: Sequence[MicroBatch]) -> Pass:
        members = ((batch.learner, len(batch.rows.t)) for batch in batches)
        key = (*members, batches[0].rows.x0.shape[1:])
        compiled = self._passes.pop(key, None)
        while len(self._passes) >= KEPT_PASSES:
            del self._passes[next(iter(self._passes))]
        self._passes[key] = compiled or Pass(batches)
        return self._passes[key]

    def clear(self) -> None:
        self._passes.clear()


def row_losses(model: Model, x0: Tensor, labels: Tensor, t: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Returns each row's mean squared error of the predicted noise, and its variational bound, [B] each. x0 and noise
    are [B, C, H, W], labels and t [B]."""
    schedule = schedule_on(x0.device)
    output = model(schedule.add_noise(x0, noise, t), t, labels)
    loss = diffusion_loss(output, x0, noise, t, schedule)
    return loss.mse, loss.bound
