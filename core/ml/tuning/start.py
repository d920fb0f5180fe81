"""Start values of an adapter's trainable tensors."""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from core.artifact.additions import Shapes
from core.artifact.sites import CLASS_TABLE
from core.ml.model.dit import DiT
from core.ml.tuning.plan import StartingPoint


def start_tensors(
    dit: DiT,
    shapes: Shapes,
    generator: torch.Generator,
    *,
    keep_classes: bool = False,
    known: Mapping[int, int] | None = None,
) -> dict[str, Tensor]:
    """Returns the start values of all tensors in `shapes`, by name, in fp32 on the base's device.

    Biases and weights of the base start at the base's values, factors at 1, and the scale and shift of norms at 1 and
    0. The down projections of LoRA and AdaptFormer are initialized like PyTorch's linear layers, and their up
    projections at 0. Prompts are initialized as in the VPT paper (arXiv 2203.12119).

    The embeddings in the class table are drawn from N(0, 0.02), except for two kinds, which are copied from the base's
    table: the null class, so that the unconditional prediction starts as the base's, and the classes in `known`, which
    maps indices of the new table to indices of the base's table. `keep_classes` copies the base's whole class table
    instead, so that the model starts with exactly the base's output; raises ValueError when the number of classes
    differs from the base's.
    """
    base = dict(dit.named_parameters())
    device = dit.positions.device
    tensors = {name: _start(name, shape, base, generator, keep_classes).to(device) for name, shape in shapes.items()}
    for place, of_base in (known or {}).items():
        tensors[CLASS_TABLE][place] = base[CLASS_TABLE][of_base].detach().float()
    return tensors


def continue_from(tensors: dict[str, Tensor], start: StartingPoint, class_names: Sequence[str]) -> None:
    """Replaces the start values in `tensors` by those of the adapter to continue from: all tensors except for the class
    table, and the embeddings of the null class and of those classes in `class_names` that the adapter has too."""
    for name in tensors.keys() - {CLASS_TABLE}:
        tensors[name] = start.tensors[name].to(tensors[name])
    table, own = tensors[CLASS_TABLE], start.tensors[CLASS_TABLE].to(tensors[CLASS_TABLE])
    table[-1] = own[-1]
    for place, name in enumerate(class_names):
        if name in start.class_names:
            table[place] = own[start.class_names.index(name)]


def _start(
    name: str, shape: tuple[int, ...], base: Mapping[str, Tensor], generator: torch.Generator, keep: bool
) -> Tensor:
    if name == CLASS_TABLE:
        return _class_table(shape, base[CLASS_TABLE].detach().float(), generator, keep)
    if name in base:
        return base[name].detach().float().clone()
    if name.endswith(".prompts"):
        patch_values = base["x_embedder.proj.weight"][0].numel()
        return _uniform(shape, math.sqrt(6 / (patch_values + shape[1])), generator)  # Xavier's, of the patch embedding
    if name.endswith(".down.weight"):
        return _uniform(shape, 1 / math.sqrt(shape[1]), generator)  # Kaiming's with a = sqrt(5), as in nn.Linear
    if name.endswith(".up.weight"):
        return torch.zeros(shape)
    return torch.ones(shape) if name.endswith((".factor", ".weight")) else torch.zeros(shape)


def _class_table(shape: tuple[int, ...], old: Tensor, generator: torch.Generator, keep: bool) -> Tensor:
    if keep and old.shape != shape:
        raise ValueError(f"the base has {len(old) - 1} classes, not {shape[0] - 1}")
    if keep:
        return old.clone()
    table = torch.empty(shape).normal_(std=0.02, generator=generator)
    table[-1] = old[-1]
    return table


def _uniform(shape: tuple[int, ...], limit: float, generator: torch.Generator) -> Tensor:
    return torch.empty(shape).uniform_(-limit, limit, generator=generator)
