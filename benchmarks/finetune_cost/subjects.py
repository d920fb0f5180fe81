"""Builds the training step that is timed, for each fine-tuning method, on random weights and images, since time and
memory do not depend on their values.

The project's own methods run through `Trainer`, as in a worker. The competitors are what a researcher would write with
diffusers, PEFT and PyTorch; they keep no moving average and clip no gradients, which is in their favour.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Self

import torch
from torch import Tensor

from benchmarks.serving.subjects import random_dit
from core.artifact.additions import Lora
from core.artifact.base import BaseConfig
from core.artifact.sites import PRESETS, Method, MethodSites, Sites, trainable_shapes
from core.artifact.training import TrainingSettings
from core.ml.diffusion.loss import diffusion_loss
from core.ml.diffusion.schedule import SCHEDULE
from core.ml.model.dit import DiT
from core.ml.tuning.latents import Latents
from core.ml.tuning.methods import adapter_of
from core.ml.tuning.start import start_tensors
from core.ml.tuning.trainer import Trainer

CLASSES = 101
"""Number of classes of Food-101."""
OURS: dict[str, tuple[Method, MethodSites]] = {
    "full": ("full", Sites()),
    "bitfit": ("bitfit", Sites()),
    "difffit": ("difffit", PRESETS["paper"]),
    "lora, rank 8": ("lora", Lora(rank=8)),
}
OTHERS = ("full, diffusers and PyTorch", "lora, rank 8, diffusers and PEFT")
NAMES = (*OURS, *OTHERS)


@dataclass(frozen=True, kw_only=True)
class Setting:
    depth: int
    """Number of transformer blocks of DiT-XL/2's width; DiT-XL/2 has 28."""
    batch: int
    device: str
    threads: int

    @property
    def config(self) -> BaseConfig:
        return BaseConfig(depth=self.depth, num_classes=CLASSES, timestep_convention="diffusers")

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the frozen weights; trainable ones are fp32."""
        return torch.float32 if self.device == "cpu" else torch.bfloat16


@dataclass(frozen=True)
class Seconds:
    """Clock time and processor time in seconds. On a busy machine, processor time describes a method better."""

    clock: float
    processor: float

    @classmethod
    def now(cls) -> Self:
        """Returns the current times, once the device has finished its work."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return cls(time.perf_counter(), time.process_time())

    def __sub__(self, other: "Seconds") -> "Seconds":
        return Seconds(self.clock - other.clock, self.processor - other.processor)


@dataclass(frozen=True)
class Step:
    """Training step to time, with its optimizer and its number of trainable parameters."""

    run: Callable[[], object]
    optimizer: torch.optim.Optimizer
    trainable: int

    def seconds(self) -> tuple[Seconds, Seconds]:
        """Runs the training step once. Returns its time, and the optimizer's part of that time."""
        step, spent = self.optimizer.step, Seconds(0.0, 0.0)

        def timed(*arguments: Any) -> None:
            nonlocal spent
            started = Seconds.now()
            step(*arguments)
            spent = Seconds.now() - started

        self.optimizer.step = timed  # type: ignore[method-assign,assignment]
        try:
            started = Seconds.now()
            self.run()
            return Seconds.now() - started, spent
        finally:
            self.optimizer.step = step  # type: ignore[method-assign]


def make(name: str, setting: Setting) -> Step:
    dit = random_dit(setting.config, torch.device(setting.device), setting.dtype)
    if name in OURS:
        trainer = trainer_of(dit, *OURS[name], setting.batch)
        return Step(trainer.step, trainer.optimizer, trainer.parameters.numel())
    return plain_step(full_by_diffusers(dit) if name == OTHERS[0] else _lora_by_peft(dit), dit, setting.batch)


def trainer_of(
    dit: DiT, method: Method, sites: MethodSites, batch: int, seed: int = 0, *, max_rows: int | None = None
) -> Trainer:
    """Returns the project's trainer of one method, on random latents. Several trainers can share a pass through the
    model of up to `max_rows` batch rows."""
    classes = min(CLASSES, dit.config.num_classes)
    shapes = trainable_shapes(dit.config, method, sites, classes)
    start = start_tensors(dit, shapes, torch.Generator().manual_seed(seed))
    latents = random_latents(dit.config, 4 * batch, classes, seed)
    settings = TrainingSettings(steps=10**6, batch_size=batch, held_out_fraction=0, seed=seed)
    return Trainer(dit, start, latents, settings, partial(adapter_of, sites), max_rows=max_rows)


def random_latents(config: BaseConfig, count: int, classes: int, seed: int) -> Latents:
    """Returns random latents of `count` training images, evenly spread over `classes` class labels."""
    generator = torch.Generator().manual_seed(seed)
    mean = torch.randn(2, count, config.in_channels, config.input_size, config.input_size, generator=generator)
    return Latents(mean, torch.ones_like(mean) / 10, torch.arange(count) % classes)


def full_by_diffusers(dit: DiT) -> Any:
    from benchmarks.baselines.diffusers_model import transformer

    with dit.positions.device:  # initializes weights on the device: a CPU takes a minute for DiT-XL/2
        network = transformer(dit)
    return network.float().requires_grad_(True).train()


def _lora_by_peft(dit: DiT) -> Any:
    from peft import LoraConfig, get_peft_model

    from benchmarks.baselines.diffusers_model import transformer

    network = transformer(dit)
    model: Any = get_peft_model(network, LoraConfig(r=8, lora_alpha=8, target_modules=["to_q", "to_v"]))
    embedder = network.transformer_blocks[0].norm1.emb.class_embedder
    embedder.embedding_table.requires_grad_(True)  # the class embeddings train in all methods
    return model.train()


def plain_step(network: Any, dit: DiT, batch: int) -> Step:
    """Returns a training step as a researcher would write it: fp32 weights under autocast to the base's dtype, and
    AdamW."""
    device, dtype = dit.positions.device.type, dit.positions.dtype
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-4, weight_decay=0.0)
    batches = _batches(dit, batch)

    def step() -> None:
        x0, t, labels, noise = next(batches)
        noisy = SCHEDULE.add_noise(x0, noise, t)
        with torch.autocast(device, dtype, enabled=dtype != torch.float32):
            output = network(noisy, timestep=t, class_labels=labels).sample
        loss = diffusion_loss(output, x0, noise, t, SCHEDULE)
        (loss.mse + loss.bound).mean().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return Step(step, optimizer, sum(parameter.numel() for parameter in parameters))


def _batches(dit: DiT, count: int) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Yields random batches (latents [B, C, H, W], timesteps [B], class ids [B], noise [B, C, H, W]), generated on the
    host as `Trainer` does."""
    config, device = dit.config, dit.positions.device
    shape = (count, config.in_channels, config.input_size, config.input_size)
    classes = min(CLASSES, config.num_classes)
    while True:
        values = (torch.randn(shape), torch.randint(0, 1000, (count,)), torch.randint(0, classes, (count,)))
        yield *(value.to(device) for value in values), torch.randn(shape).to(device)  # type: ignore[misc]
