"""A faster trainer for pre-training on a CPU or GPU: a compiled forward pass in bf16, and Muon for the weight matrices
of the blocks.

Measured on one core of an Intel Xeon with AMX, 32 images per step: 0.26 s compiled in bf16, 0.73 s with the trainer's
own pass in fp32.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from core.artifact.additions import Shapes
from core.artifact.training import TrainingSettings
from core.ml.diffusion.sampling import Model
from core.ml.model.adapter import TensorAdapter
from core.ml.model.dit import DiT
from core.ml.tuning.latents import Latents
from core.ml.tuning.routes import ReferenceRoute, Route
from core.ml.tuning.trainer import Trainer

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
NEWTON_SCHULZ_STEPS = 5
MOMENTUM = 0.95


class CompiledRoute(ReferenceRoute):
    """Route that computes the model in bf16, compiled by Inductor. On a CPU, attention is computed as plain matrix
    products, since the backward pass of PyTorch's CPU kernel is eight times slower in bf16."""

    def __init__(self, dit: DiT) -> None:
        super().__init__(dit, TensorAdapter)
        self._forward = torch.compile(self._output)

    def joint_model(self, adapters: Any) -> Model:
        ((tensors, _),) = adapters

        def model(x: Tensor, t: Tensor, y: Tensor) -> Tensor:
            with torch.autocast(x.device.type, torch.bfloat16), sdpa_kernel(self._backends(x)):
                output: Tensor = self._forward(tensors, x, t, y)
            return output.float()

        return model

    def _output(self, tensors: Mapping[str, Tensor], x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        output: Tensor = self.dit(x, t, y, TensorAdapter(tensors))
        return output

    @staticmethod
    def _backends(x: Tensor) -> list[SDPBackend]:
        return [SDPBackend.MATH] if x.is_cpu else [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION]


class Muon(torch.optim.Optimizer):
    """Muon (Jordan et al., 2024) for the weight matrices of the blocks, with updates of Adam's size (arXiv 2502.16982),
    and Adam for all other tensors, over one flat parameter vector. Its state has the names of AdamW's."""

    def __init__(self, parameters: torch.nn.Parameter, shapes: Shapes, learning_rate: float) -> None:
        super().__init__([parameters], {"lr": learning_rate})
        self._parameters = parameters
        self._groups: dict[tuple[int, ...], list[tuple[int, int]]] = {}  # by shape: places in the flat vector
        adam = torch.ones(parameters.numel(), dtype=torch.bool)
        start = 0
        for name, shape in shapes.items():
            size = torch.Size(shape).numel()
            if name.startswith("blocks.") and len(shape) == 2:
                self._groups.setdefault(tuple(shape), []).append((start, start + size))
                adam[start : start + size] = False
            start += size
        self._adam = adam.nonzero().flatten().to(parameters.device)

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        flat, grad, rate = self._parameters.data, self._parameters.grad, self.param_groups[0]["lr"]
        assert grad is not None
        state = self.state[self._parameters]
        if not state:
            state.update(step=torch.tensor(0.0), exp_avg=torch.zeros_like(flat), exp_avg_sq=torch.zeros_like(flat))
        state["step"] += 1
        self._adam_step(flat, grad, rate, state)
        for shape, places in self._groups.items():
            gradients = torch.stack([grad[a:b].view(shape) for a, b in places])
            momenta = torch.stack([state["exp_avg"][a:b].view(shape) for a, b in places])
            momenta = momenta.lerp_(gradients, 1 - MOMENTUM)
            updates = _orthogonal(gradients.lerp_(momenta, MOMENTUM)) * (0.2 * max(shape) ** 0.5)
            for (a, b), momentum, update in zip(places, momenta, updates, strict=True):
                state["exp_avg"][a:b] = momentum.flatten()
                flat[a:b].sub_(update.flatten(), alpha=rate)

    def _adam_step(self, flat: Tensor, grad: Tensor, rate: float, state: dict[str, Tensor]) -> None:
        step, which = float(state["step"]), self._adam
        gradient = grad[which]
        first = state["exp_avg"][which].lerp_(gradient, 0.1)
        second = state["exp_avg_sq"][which].lerp_(gradient.square(), 0.001)
        state["exp_avg"][which], state["exp_avg_sq"][which] = first, second
        update = (first / (1 - 0.9**step)) / ((second / (1 - 0.999**step)).sqrt() + 1e-8)
        flat[which] -= rate * update


def fast_trainer(dit: DiT, tensors: Mapping[str, Tensor], latents: Latents, settings: TrainingSettings) -> Trainer:
    trainer = Trainer(dit, tensors, latents, settings)
    route: Route = CompiledRoute(dit)
    trainer.route = route
    trainer.learner = replace(trainer.learner, route=route)
    trainer.optimizer = Muon(trainer.parameters, trainer.learner.shapes, settings.learning_rate)
    return trainer


def _orthogonal(matrices: Tensor) -> Tensor:
    """Returns matrices [K, M, N] with all singular values near 1, by Newton-Schulz iterations in bf16."""
    a, b, c = NEWTON_SCHULZ
    x = matrices.bfloat16()
    tall = x.shape[-2] > x.shape[-1]
    if tall:
        x = x.mT
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(NEWTON_SCHULZ_STEPS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    result: Tensor = x.mT if tall else x
    return result.float()
