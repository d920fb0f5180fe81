"""The trainer of the steps that learn guidance, which follow the ordinary steps of a fine-tune."""

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from core.artifact.sampling import SamplingSettings
from core.artifact.training import TrainingSettings
from core.ml.diffusion.sampling import Model
from core.ml.model.dit import DiT
from core.ml.tuning.checkpoint import BEFORE
from core.ml.tuning.guidance import Teacher
from core.ml.tuning.latents import Latents
from core.ml.tuning.parallel import Processes
from core.ml.tuning.trainer import Trainer

TAUGHT = "taught"
"""Name in the state: the teacher's trainable tensors as a flat vector."""


class GuidanceTrainer(Trainer):
    """Trains a copy of the adapter `taught` to predict the guided noise of that adapter."""

    def __init__(
        self,
        dit: DiT,
        taught: Mapping[str, Tensor],
        latents: Latents,
        settings: TrainingSettings,
        steps_before: int,
        *,
        processes: Processes,
        frozen: Mapping[str, Tensor],
        max_rows: int,
    ) -> None:
        """`settings` are those of the whole fine-tune, `steps_before` its steps so far. `frozen` are the tensors among
        `taught` that do not train."""
        start = {name: tensor for name, tensor in taught.items() if name not in frozen}
        self._taught = torch.cat([tensor.detach().float().flatten() for tensor in start.values()])
        super().__init__(
            dit, start, latents, settings.distillation, processes=processes, frozen=frozen, max_rows=max_rows
        )
        interval = settings.distill_lowest_timestep, settings.distill_highest_timestep
        scale = settings.distill_guidance or 1.0
        teacher = Teacher(dit, taught, scale, settings.distill_adapter_scale, interval)
        self.learner = replace(self.learner, teacher=teacher)
        self.steps_before = steps_before

    def state(self) -> dict[str, Tensor]:
        taught = self._taught.to("cpu", copy=True)
        return super().state() | {TAUGHT: taught, BEFORE: torch.tensor(self.steps_before)}

    def sampled(self) -> tuple[Model, SamplingSettings]:
        return self.route.model(self.averaged), SamplingSettings(steps=20, guidance_scale=1.0)


def taught_by(state: Mapping[str, Tensor], trainer: Trainer) -> tuple[int, dict[str, Tensor]]:
    """Returns the number of steps before guidance is learned, and the teacher's tensors, from the state in a checkpoint
    of a GuidanceTrainer. `trainer` is the trainer of the steps before."""
    return int(state[BEFORE]), trainer.learner.tensors(state[TAUGHT].to(trainer.device))
