"""Builds the models that the serving benchmarks measure, and adapters for them.

Weights are random, except the mini base's, since no figure depends on the content of images.
"""

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Literal

import torch
from torch import Tensor

from core.artifact.base import BaseConfig
from core.artifact.sites import PRESETS, base_shapes, trainable_shapes
from core.ml.model.autoencoder import Autoencoder
from core.ml.model.checkpoint import assemble, load_base
from core.ml.model.dit import DiT
from core.ml.tuning.start import start_tensors

Kind = Literal["mini", "wide", "full"]
CLASSES = 8
"""Number of classes of every domain."""


@dataclass(frozen=True)
class Subject:
    """Model to measure on its device, with a number of sampling steps for which its benchmarks end in reasonable
    time."""

    kind: Kind
    name: str
    dit: DiT
    autoencoder: Autoencoder
    steps: int
    """Sampling steps of a request, from which the benchmarks derive theirs."""
    compile: bool = False

    @property
    def device(self) -> torch.device:
        return self.dit.positions.device

    def adapter(self, seed: int) -> dict[str, Tensor]:
        """Returns the tensors of a DiffFit adapter on the host: the values with which training starts, plus noise."""
        generator = torch.Generator().manual_seed(seed)
        shapes = trainable_shapes(self.dit.config, "difffit", PRESETS["paper"], CLASSES)
        start = start_tensors(self.dit, shapes, generator)
        return {name: tensor.cpu() + 0.02 * _noise(tensor.shape, generator) for name, tensor in start.items()}

    def batch(self, rows: int) -> tuple[Tensor, Tensor, Tensor]:
        """Returns a random batch: latents [rows, C, H, W], timesteps [rows] and class ids [rows]."""
        config, generator = self.dit.config, torch.Generator().manual_seed(0)
        x = _noise((rows, config.in_channels, config.input_size, config.input_size), generator)
        t = torch.randint(0, 1000, (rows,), generator=generator)
        y = torch.randint(0, CLASSES, (rows,), generator=generator)
        return x.to(self.device), t.to(self.device), y.to(self.device)

    def compiled(self, function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        return torch.compile(function, dynamic=False) if self.compile else function

    def seconds(self, action: Callable[[], object]) -> float:
        """Runs `action`, and returns the seconds until the device has finished it."""
        with torch.inference_mode():
            self._wait()
            started = time.perf_counter()
            action()
            self._wait()
            return time.perf_counter() - started

    def in_fp32(self) -> "Subject":
        return replace(self, dit=copy.deepcopy(self.dit).float(), name=f"{self.name}, fp32")

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def mini() -> Subject:
    base = load_base("mini", device=torch.device("cpu"), dtype=torch.float32)
    return Subject("mini", "mini base, CPU", base.dit, base.autoencoder, steps=10)


def wide(depth: int = 2) -> Subject:
    """Returns a model with blocks as wide as DiT-XL/2's, but only a few, since a CPU could not run all 28 often
    enough."""
    dit = random_dit(BaseConfig(depth=depth), torch.device("cpu"), torch.float32)
    coder = random_autoencoder((32, 32, 64, 64), torch.device("cpu"))
    return Subject("wide", f"{depth} blocks of XL width, CPU", dit, coder, steps=2)


def full(*, compile: bool = False) -> Subject:
    device = torch.device("cuda")
    dit = random_dit(BaseConfig(), device, torch.bfloat16)
    coder = random_autoencoder((128, 256, 512, 512), device)
    return Subject("full", "DiT-XL/2, GPU", dit, coder, steps=20, compile=compile)


def random_dit(config: BaseConfig, device: torch.device, dtype: torch.dtype) -> DiT:
    """Returns a DiT whose parameters are random and not zero, small enough that activations stay finite. They are
    generated on the device, since a CPU takes a minute for DiT-XL/2."""
    generator = torch.Generator(device).manual_seed(0)
    state = {
        name: (_noise(shape, generator) * (shape[-1] ** -0.5 if len(shape) > 1 else 0.1)).to(dtype)
        for name, shape in base_shapes(config).items()
    }
    return assemble(config, state, device, dtype)


def repeated_dit(config: BaseConfig, device: torch.device, dtype: torch.dtype) -> DiT:
    """Returns a DiT whose blocks all share the tensors of one block: its parameter count is that of the full model, its
    blocks take the memory of one."""
    single = random_dit(replace(config, depth=1), device, dtype).state_dict()
    state: dict[str, Tensor] = {}
    for name in base_shapes(config):
        part, _, rest = name.partition(".")
        state[name] = single[f"blocks.0.{rest.partition('.')[2]}"] if part == "blocks" else single[name]
    return assemble(config, state, device, dtype)


def random_autoencoder(channels: tuple[int, ...], device: torch.device) -> Autoencoder:
    """Returns a random autoencoder with four latent channels. With four entries in `channels`, each latent position
    stands for 8 x 8 pixels."""
    from diffusers import AutoencoderKL

    torch.manual_seed(0)
    network: Any = AutoencoderKL(
        block_out_channels=channels,
        down_block_types=("DownEncoderBlock2D",) * len(channels),
        up_block_types=("UpDecoderBlock2D",) * len(channels),
        layers_per_block=2 if channels[0] >= 128 else 1,
        norm_num_groups=32 if channels[0] % 32 == 0 else 4,
        latent_channels=4,
        scaling_factor=0.18215,
    )
    coder = Autoencoder(network)
    coder.network.to(device)
    return coder


@cache
def subject(kind: Kind, *, compile: bool = False) -> Subject:
    if kind == "full":
        return full(compile=compile)
    return mini() if kind == "mini" else wide()


def _noise(shape: tuple[int, ...] | torch.Size, generator: torch.Generator) -> Tensor:
    """Returns standard normal noise on the generator's device."""
    return torch.randn(tuple(shape), generator=generator, device=generator.device)
