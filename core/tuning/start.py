"""Where each trainable tensor begins."""

from collections.abc import Mapping

import torch
from torch import Tensor

from core.artifact.sites import CLASS_TABLE, Shapes
from core.model.dit import DiT


def start_tensors(
    dit: DiT, shapes: Shapes, generator: torch.Generator, *, keep_classes: bool = False
) -> dict[str, Tensor]:
    """fp32 tensors on the base's device: biases and weights as in the base, factors 1, affine norms (1, 0).

    The class table is new, N(0, 0.02), but its null row is the base's, so that the unconditional branch starts where
    the base left it. `keep_classes` starts from the base's whole table instead: then a forward equals the base's.
    Raises ValueError when the shapes are for another number of classes than the base's.
    """
    base = dict(dit.named_parameters())
    return {name: _start(name, shape, base, dit, generator, keep_classes) for name, shape in shapes.items()}


def _start(
    name: str, shape: tuple[int, ...], base: Mapping[str, Tensor], dit: DiT, generator: torch.Generator, keep: bool
) -> Tensor:
    device = dit.positions.device
    if name == CLASS_TABLE:
        old = base[CLASS_TABLE].detach().float()
        if keep and old.shape != shape:
            raise ValueError(f"the base has {len(old) - 1} classes, not {shape[0] - 1}")
        if keep:
            return old.clone()
        table = torch.empty(shape).normal_(std=0.02, generator=generator).to(device)
        table[-1] = old[-1]
        return table
    if name in base:
        return base[name].detach().float().clone()
    if name.endswith((".factor", ".weight")):
        return torch.ones(shape, device=device)
    return torch.zeros(shape, device=device)
