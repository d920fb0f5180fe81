"""Random changes of training images: of the autoencoder's, and of the copies that the transformer learns."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class Augmentation:
    """Random changes of training images: fractions of the images that are changed, and ranges of the changes."""

    flipped: float = 0.5
    resized: float = 0.5
    sizes: tuple[float, float] = (0.85, 1.3)
    """Range of the factors by which the visible part grows"""
    shift: float = 0.1
    """Max shift in both directions, as a fraction of half the image's side"""
    recoloured: float = 0.3
    outlined: float = 0.3
    tints: tuple[float, float] = (0.7, 1.2)
    """Range of the factors for the ink of each colour channel"""


def augment(pictures: Tensor, generator: torch.Generator, changes: Augmentation) -> Tensor:
    """Augments images, uint8 (batch, 3, 64, 64), and returns them in [-1, 1]: flipped, shifted, scaled, tinted and
    outlined at random, on white. `generator` is on the images' device.

    Black outlines prepare for line art, which only one of the base's training sets has.
    """
    count, device = len(pictures), pictures.device

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(count, *shape, generator=generator, device=device)

    ink = 1 - pictures.float() / 255
    flip = torch.where(uniform(0, 1) < changes.flipped, -1.0, 1.0)
    scale = torch.where(uniform(0, 1) < changes.resized, uniform(*changes.sizes), 1.0)
    zero = torch.zeros(count, device=device)
    shift = changes.shift
    rows = [flip * scale, zero, uniform(-shift, shift), zero, scale, uniform(-shift, shift)]
    grid = functional.affine_grid(torch.stack(rows, 1).view(count, 2, 3), list(ink.shape), align_corners=False)
    ink = functional.grid_sample(ink, grid, mode="bilinear", align_corners=False)

    order = torch.argsort(uniform(0, 1, 3), dim=1)
    shuffled = ink.gather(1, order[:, :, None, None].expand_as(ink))
    ink = torch.where((uniform(0, 1) < changes.recoloured)[:, None, None, None], shuffled, ink)
    ink = ink * uniform(*changes.tints, 3, 1, 1)
    edges = (functional.max_pool2d(ink, 3, 1, 1) + functional.max_pool2d(-ink, 3, 1, 1)).amax(1, keepdim=True)
    outlined = torch.maximum(ink, (edges * uniform(1, 3, 1, 1, 1)).clamp(max=1))
    ink = torch.where((uniform(0, 1) < changes.outlined)[:, None, None, None], outlined, ink)
    return (1 - 2 * ink).clamp(-1, 1).contiguous(memory_format=torch.channels_last)
