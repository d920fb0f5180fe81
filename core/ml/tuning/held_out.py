"""Held-out images: the loss of an adapter on them, and the best moving average of a training run by that loss."""

import math
from collections.abc import Generator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from core.artifact.sampling import TIMESTEPS
from core.artifact.training import TrainingSettings
from core.ml.diffusion.sampling import Model
from core.ml.model.device import is_out_of_memory, release_memory
from core.ml.tuning import passes
from core.ml.tuning.latents import Latents

_MAX_REPEATS, _MAX_ROWS = 32, 1024
"""Max timesteps per image, and max batch rows, of an evaluation during training. More would hardly be more exact."""


@torch.no_grad()
def held_out_parts(
    model: Model,
    images: Latents,
    device: torch.device,
    null_class: int | None = None,
    *,
    repeats: int,
    batch_size: int,
) -> Generator[None, None, float]:
    """Computes and returns the mean loss of `model` on `images`, with `repeats` stratified timesteps per image; NaN if
    there are no images. Yields after each batch. Timesteps and noise are fixed, so that losses of different models can
    be compared. If `null_class` is given, every image has that label. Halves the batch when memory runs out.
    """
    if not len(images):
        return math.nan
    generator = torch.Generator().manual_seed(0)
    indices = torch.arange(len(images)).repeat_interleave(repeats)
    strata = torch.arange(len(indices)) % repeats
    t = ((strata + torch.rand(len(indices), generator=generator)) * (TIMESTEPS / repeats)).long()
    flipped = torch.zeros(len(indices), dtype=torch.long)
    x0, labels = images.mean[flipped, indices], images.labels[indices]
    noise = torch.randn(x0.shape, generator=generator)
    if null_class is not None:
        labels = torch.full_like(labels, null_class)
    total, rows = 0.0, torch.arange(len(indices))
    while len(rows):
        part = rows[:batch_size]
        try:
            on_device = (tensor[part].to(device) for tensor in (x0, labels, t, noise))
            mse, bound = passes.row_losses(model, *on_device)
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


def evaluation_sample(images: Latents, settings: TrainingSettings) -> tuple[Latents, int]:
    """Returns the held-out images of an evaluation during training, and the number of timesteps per image.

    An evaluation has at most a tenth as many batch rows as the training steps between two evaluations. Without
    gradients a row takes less than half the time of a training row, so that evaluations add at most 5 % to the time of
    training. If there are more images than rows, evenly spaced images are taken, and so some of each class.
    """
    rows = max(1, min(_MAX_ROWS, settings.evaluate_every * settings.batch_size // 10))
    if len(images) > rows:
        return images.subset(torch.arange(rows) * len(images) // rows), 1
    return images, max(1, min(_MAX_REPEATS, rows // max(1, len(images))))


@dataclass
class Best:
    """The lowest held-out loss of a training run so far, and the moving average that had it."""

    step: int = 0
    """Training step with the lowest loss; 0 before the first evaluation."""
    loss: float = math.inf
    average: Tensor | None = None
    """The moving average after that step, as a flat vector; None if the run does not keep it."""
    evaluated_step: int = 0
    """Training step of the latest evaluation."""

    def add(self, step: int, loss: float, average: Tensor | None) -> None:
        """Records an evaluation of the moving average. Copies `average`, if it is given and is the best so far."""
        self.evaluated_step = step
        if loss < self.loss:
            self.step, self.loss = step, loss
            self.average = None if average is None else average.clone()

    def state(self) -> dict[str, Tensor]:
        """Returns copies of the tensors that a checkpoint has to store; none before the first evaluation."""
        if not self.evaluated_step:
            return {}
        numbers = {"best_step": torch.tensor(self.step), "evaluated_step": torch.tensor(self.evaluated_step)}
        loss = {"best_loss": torch.tensor(self.loss, dtype=torch.float64)}
        average = {} if self.average is None else {"best_average": self.average.to("cpu", copy=True)}
        return {**numbers, **loss, **average}

    @classmethod
    def of(cls, state: Mapping[str, Tensor], device: torch.device) -> "Best":
        """Restores what `state()` returned."""
        if "evaluated_step" not in state:
            return cls()
        average = state.get("best_average")
        return cls(
            step=int(state["best_step"]),
            loss=float(state["best_loss"]),
            average=None if average is None else average.to(device, copy=True),
            evaluated_step=int(state["evaluated_step"]),
        )
