"""Learned guidance: the last steps of a fine-tune, in which a copy of the adapter learns to predict guided noise in one
model evaluation (guidance distillation, arXiv 2210.03142).

The copy learns one guidance scale, the highest. Lower scales interpolate between the adapter, which is a scale of 1,
and its copy. The teacher is the adapter as it was before these steps: it evaluates the model twice, for the conditional
and the unconditional prediction.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from core.artifact.sampling import EVERY_TIMESTEP
from core.artifact.sites import CLASS_TABLE
from core.ml.diffusion.samplers import guided_noise
from core.ml.diffusion.sampling import Model
from core.ml.diffusion.schedule import schedule_on
from core.ml.model.dit import DiT
from core.ml.model.folding import fold, folded_forward
from core.ml.tuning.batches import Rows


class Teacher:
    """Trained adapter whose guided predictions a fine-tune learns.

    Letters in shapes: B rows, C latent channels, H and W latent height and width, D hidden size, P folded values.
    """

    def __init__(
        self,
        dit: DiT,
        tensors: Mapping[str, Tensor],
        scale: float,
        adapter_scale: float,
        interval: tuple[int, int] = EVERY_TIMESTEP,
    ) -> None:
        """`tensors` are those of the adapter, with its class table. `scale` is the guidance scale, and `adapter_scale`
        the adapter's scale in the unconditional prediction. Outside `interval`, the lowest and the highest guided
        timestep, the teacher's prediction is the conditional one."""
        self.dit, self.channels, self.scale, self.interval = dit, dit.config.guidance_channels, scale, interval
        with torch.no_grad():
            base, own = fold(dit, {}), fold(dit, tensors)
            self.vectors = torch.stack([own, torch.lerp(base, own, adapter_scale)])  # [2, P]
            self.table = tensors[CLASS_TABLE].detach().clone()
            self.null = torch.lerp(dit.y_embedder.embedding_table.weight[-1].float(), self.table[-1], adapter_scale)

    def losses(self, student: Model, rows: Rows) -> tuple[Tensor, Tensor]:
        """Returns the mean squared differences of each row's prediction by `student` from the teacher's, [B] each: of
        the predicted noise from the guided noise, and of the interpolated variance from the conditional
        prediction's."""
        x = schedule_on(rows.x0.device).add_noise(rows.x0, rows.noise, rows.t)
        with torch.no_grad():
            classes = torch.cat([F.embedding(rows.labels, self.table), self.null.expand(len(x), -1)])
            vectors = self.vectors.repeat_interleave(len(x), 0)
            outputs = folded_forward(self.dit, torch.cat([x, x]), rows.t.repeat(2), classes, vectors).float()
            (conditional, unconditional), variance = outputs[:, : x.shape[1]].chunk(2), outputs[: len(x), x.shape[1] :]
            guided = (rows.t >= self.interval[0]) & (rows.t <= self.interval[1])
            scales = 1 + (self.scale - 1) * guided.float()
            target = guided_noise(conditional, unconditional, scales, self.channels)
        noise, own_variance = student(x, rows.t, rows.labels).float().chunk(2, dim=1)
        return (noise - target).square().mean((1, 2, 3)), (own_variance - variance).square().mean((1, 2, 3))
