"""Small models for tests. Every parameter is random and none is zero, so that any mistake changes the output."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor

from core.artifact.base import BaseConfig
from core.artifact.sites import PRESETS, Method, Sites, trainable_shapes
from core.ml.model.dit import DiT
from core.ml.tuning.start import start_tensors

CONFIG = BaseConfig(input_size=8, hidden_size=48, depth=4, num_heads=4, num_classes=5)
EVERY_SITE = Sites(patch=True, time=True, first_block=2, last_block=3)
ADAPTERS: dict[str, tuple[Method, Sites]] = {
    "bitfit": ("bitfit", Sites()),
    "literal": ("difffit", PRESETS["literal"]),
    "paper": ("difffit", PRESETS["paper"]),
    "every site": ("difffit", EVERY_SITE),
    "full": ("full", Sites()),
}
FOLDING = [name for name in ADAPTERS if name != "full"]
"""Adapters that fold into vectors."""


def random_dit(config: BaseConfig = CONFIG, dtype: torch.dtype = torch.float32, seed: int = 0) -> DiT:
    generator = torch.Generator().manual_seed(seed)
    dit = DiT(config).to(dtype)
    for parameter in dit.parameters():
        fan_in = parameter[0].numel() if parameter.ndim > 1 else 4
        parameter.copy_(torch.randn(parameter.shape, generator=generator) / fan_in**0.5)
    return dit.eval()


def fresh_tensors(dit: DiT, name: str, num_classes: int | None = None) -> dict[str, Tensor]:
    """Returns an adapter as training begins with it. It has the base's class table when `num_classes` is not given."""
    method, sites = ADAPTERS[name]
    shapes = trainable_shapes(dit.config, method, sites, num_classes or dit.config.num_classes)
    return start_tensors(dit, shapes, torch.Generator().manual_seed(1), keep_classes=num_classes is None)


def random_tensors(dit: DiT, name: str, num_classes: int = 3, seed: int = 2) -> dict[str, Tensor]:
    """Returns an adapter far from where training begins."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: (tensor + 0.3 * torch.randn(tensor.shape, generator=generator)).to(dit.positions.dtype)
        for name, tensor in fresh_tensors(dit, name, num_classes).items()
    }


def batch(config: BaseConfig = CONFIG, size: int = 3, classes: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    """Returns noisy latents, timesteps and labels, the null label among them."""
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(size, config.in_channels, config.input_size, config.input_size, generator=generator)
    t = torch.tensor([0, 999, 417, 1, 500, 998])[:size]
    y = torch.tensor([0, classes, 1, classes - 1, 0, classes])[:size]
    return x, t, y


def autoencoder_folder(folder: Path, latent_channels: int = 4, seed: int = 4) -> Path:
    """Writes a random autoencoder in diffusers' format, with 4 pixels per latent position and side."""
    torch.manual_seed(seed)
    channels = (8, 8, 16)
    network: Any = AutoencoderKL(
        block_out_channels=channels,
        down_block_types=("DownEncoderBlock2D",) * len(channels),
        up_block_types=("UpDecoderBlock2D",) * len(channels),
        norm_num_groups=4,
        latent_channels=latent_channels,
        scaling_factor=0.18215,
    )
    network.save_pretrained(folder)
    return folder


def difference(actual: Tensor, expected: Tensor) -> float:
    """Returns the largest difference, relative to the scale of the expected values."""
    return float((actual - expected).abs().max() / expected.abs().max())


def zeros(tensors: Mapping[str, Tensor]) -> Iterator[str]:
    """Yields the names of tensors that contain a zero."""
    return (name for name, tensor in tensors.items() if not tensor.all())


def class_lookups(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """Returns a list that collects the labels of each class table look-up from now on."""
    lookups: list[Tensor] = []
    look_up = F.embedding

    def recording(y: Tensor, table: Tensor) -> Tensor:
        lookups.append(y.clone())
        return look_up(y, table)

    monkeypatch.setattr(F, "embedding", recording)
    return lookups
