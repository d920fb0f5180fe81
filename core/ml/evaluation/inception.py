"""Features of the Inception network, with which the Fréchet distance is the FID (arXiv 1706.08500).

Loads the TorchScript file `inception-2015-12-05.pt`, and resizes images as clean-fid does in its mode "clean" (arXiv
2104.11222). The file is not part of the project. The tests run this code with a stand-in TorchScript module of the same
interface; with the real weights it has not been run.
"""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

SIDE, FEATURES = 299, 2048
RESIZING = "clean-fid 0.1.35"
"""Names how images are resized. Stored statistics of features depend on it."""


class Inception:
    def __init__(self, path: Path, device: torch.device | None = None) -> None:
        """Loads the network. Raises FileNotFoundError if the file does not exist, ValueError if it is not the Inception
        network."""
        if not path.is_file():
            raise FileNotFoundError(f"{path} is not there: FID needs Inception's weights, inception-2015-12-05.pt")
        self.device = device or torch.device("cpu")
        try:
            self.layers = torch.jit.load(str(path), map_location=self.device).eval().layers
        except (RuntimeError, AttributeError) as error:
            raise ValueError(f"{path} is not the TorchScript file inception-2015-12-05.pt: {error}") from error

    @torch.inference_mode()
    def features(self, pixels: Tensor, batch_size: int = 32) -> Tensor:
        """Returns the features [B, 2048], in fp32, of images [B, 3, S, S] uint8."""
        return torch.cat([self._of_batch(batch) for batch in pixels.split(batch_size)])

    def _of_batch(self, pixels: Tensor) -> Tensor:
        pictures = torch.stack([enlarged(picture) for picture in pixels]).to(self.device)
        features: Tensor = self.layers((pictures - 128) / 128)
        return features.view(len(pixels), FEATURES).float().cpu()


def enlarged(picture: Tensor) -> Tensor:
    """Resizes an image [3, S, S] uint8 to [3, 299, 299] fp32 in [0, 255]: bicubic, channel by channel, without
    rounding, and clips what bicubic overshoots."""
    channels = [Image.fromarray(channel.numpy().astype(np.float32)) for channel in picture]
    resized = [np.asarray(channel.resize((SIDE, SIDE), Image.Resampling.BICUBIC)) for channel in channels]
    return torch.from_numpy(np.stack(resized).clip(0, 255))
