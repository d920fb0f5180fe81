"""Setup that all phases of the GPU benchmark share: one base, its adapters and batches, at full size on a GPU or at
mini size on a CPU."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from benchmarks.serving.subjects import CLASSES, Subject, random_autoencoder, random_dit
from core.artifact.base import BaseConfig
from core.ml.model.autoencoder import Autoencoder
from core.ml.model.dit import DiT
from core.ml.model.folding import fold


@dataclass(frozen=True, kw_only=True)
class Size:
    """Sizes of the model, the batches and the repetitions."""

    config: BaseConfig
    rows: tuple[int, ...]
    """Batch sizes of the measured forwards."""
    main_rows: int
    """Main batch size, which the goals are about."""
    product: int
    copy_bytes: int
    batch: int
    """Number of images per training step."""
    together: int
    """Number of fine-tunes that share a training step, with a batch of `together_batch` images each."""
    together_batch: int
    training_steps: int
    images: int
    """Number of images that the engine generates, each with a separate adapter."""
    steps: tuple[int, ...]
    decoded: tuple[int, ...]
    """Numbers of latents that are decoded at once."""
    neighbours: int
    neighbour_steps: int
    seconds: float
    """Seconds that the repetitions of one figure may take."""


FULL = Size(
    config=BaseConfig(),
    rows=(64, 32, 128, 16, 8, 4, 2, 1),
    main_rows=64,
    product=8192,
    copy_bytes=2**31,
    batch=32,
    together=8,
    together_batch=4,
    training_steps=10,
    images=64,
    steps=(20, 50),
    decoded=(16, 64),
    neighbours=8,
    neighbour_steps=20,
    seconds=0.2,
)
MINI = Size(
    config=BaseConfig(input_size=8, hidden_size=48, depth=2, num_heads=4, num_classes=CLASSES),
    rows=(4, 2),
    main_rows=4,
    product=64,
    copy_bytes=2**16,
    batch=4,
    together=2,
    together_batch=2,
    training_steps=2,
    images=4,
    steps=(2,),
    decoded=(2,),
    neighbours=2,
    neighbour_steps=2,
    seconds=0.0,
)


@dataclass
class Lab:
    """Setup that all phases share. `results` holds the results of earlier phases by the phase's name."""

    device: torch.device
    size: Size
    results: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def dtype(self) -> torch.dtype:
        return torch.bfloat16 if self.device.type == "cuda" else torch.float32

    @property
    def config(self) -> BaseConfig:
        return self.size.config

    @cached_property
    @torch.inference_mode(mode=False)  # normal tensors: some phases train on this base, others only read it
    def dit(self) -> DiT:
        return random_dit(self.config, self.device, self.dtype)

    def dit_in(self, dtype: torch.dtype) -> DiT:
        """Returns a copy of the base in `dtype`, or the base itself if that is its dtype."""
        return self.dit if dtype == self.dtype else copy.deepcopy(self.dit).to(dtype)

    def subject(self, dtype: torch.dtype | None = None) -> Subject:
        """Returns the base with an autoencoder, in the form that the serving benchmarks take."""
        dit = self.dit if dtype is None else self.dit_in(dtype)
        return Subject("full", "DiT-XL/2", dit, self.autoencoder, steps=self.size.steps[0])

    @cached_property
    def autoencoder(self) -> Autoencoder:
        if not self.has_diffusers:
            return StandIn()  # type: ignore[return-value]
        channels = (128, 256, 512, 512) if self.device.type == "cuda" else (8, 8)
        return random_autoencoder(channels, self.device)  # in fp32, as a worker loads it

    @cached_property
    def has_diffusers(self) -> bool:
        """Returns whether diffusers is installed and can be imported."""
        try:
            from diffusers import AutoencoderKL, DiTTransformer2DModel  # noqa: F401  whether they can be used
        except ImportError:
            return False
        return True

    def batch(self, rows: int, dtype: torch.dtype | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Returns a random batch: latents [rows, C, H, W], in fp32 by default, timesteps [rows] and class ids
        [rows]."""
        config, generator = self.config, torch.Generator(self.device).manual_seed(rows)
        shape = (rows, config.in_channels, config.input_size, config.input_size)
        x = torch.randn(shape, generator=generator, device=self.device, dtype=dtype or torch.float32)
        t = torch.randint(0, 1000, (rows,), generator=generator, device=self.device)
        y = torch.randint(0, config.num_classes, (rows,), generator=generator, device=self.device)
        return x, t, y

    @torch.no_grad()
    def table(self, rows: int) -> Tensor:
        """Returns the vectors of `rows` adapters, [rows, P] in the base's dtype: the base's own vectors plus noise. P
        is the number of values in an adapter's vectors."""
        vectors = fold(self.dit, {})
        generator = torch.Generator(self.device).manual_seed(1)
        noise = torch.randn(rows, len(vectors), generator=generator, device=self.device)
        return (vectors + 0.02 * noise * (1 + vectors.abs())).to(self.dtype)

    def classes(self, y: Tensor) -> Tensor:
        """Returns the base's embeddings of the class ids `y`, [rows, D]."""
        return self.dit.y_embedder.embedding_table.weight[y]

    def share(self, tflops: float) -> float | None:
        """Returns `tflops` as a fraction of the rate of a large matrix product that this run measured, or None if it
        was not measured."""
        ceiling = self.results.get("ceilings", {}).get("product_tflops")
        return tflops / ceiling if ceiling else None

    def domains(self, count: int) -> Mapping[str, Mapping[str, Tensor]]:
        """Returns `count` different adapters by name, in host memory."""
        start = self.subject().adapter(0)
        generator = torch.Generator().manual_seed(2)
        noise = {name: 0.02 * torch.randn(tensor.shape, generator=generator) for name, tensor in start.items()}
        return {
            str(index): {name: tensor + index / count * noise[name] for name, tensor in start.items()}
            for index in range(count)
        }


class StandIn:
    """Decoder that replaces the autoencoder if diffusers is missing: scales the first three latent channels up
    eightfold."""

    factor = 8

    def for_decoding(self, _: torch.dtype) -> "StandIn":
        return self

    def decode(self, latents: Tensor) -> Tensor:
        """Returns pixels [B, 3, 8H, 8W] in fp32 for latents [B, C, H, W]."""
        return torch.nn.functional.interpolate(latents[:, :3].float().tanh(), scale_factor=self.factor)
