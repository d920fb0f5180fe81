"""Edge maps of images, and how well the edges of generated images follow them."""

import torch
import torch.nn.functional as F
from torch import Tensor

THRESHOLD = 0.15
"""Least contrast of an edge, as a fraction of the range of a colour channel."""
NEIGHBOURS = ((0, 1), (1, 1), (1, 0), (1, -1))
"""Neighbour (row, column) across an edge, for gradients at 0, 45, 90 and 135 degrees."""


def edge_maps(pixels: Tensor) -> Tensor:
    """Returns the edges of images [K, 3, S, S] uint8 as [K, 1, S, S] bool: Sobel's gradient of smoothed images, in the
    colour channel where it is largest, thinned to its maxima across the edge."""
    smooth = torch.tensor([1.0, 2.0, 1.0]) / 4
    slope = torch.tensor([-1.0, 0.0, 1.0])
    blurred = _filtered(pixels.float() / 255, torch.outer(smooth, smooth))
    down, right = _filtered(blurred, torch.outer(slope, smooth)), _filtered(blurred, torch.outer(smooth, slope))
    size, channel = torch.hypot(down, right).max(1, keepdim=True)
    direction = torch.atan2(down.gather(1, channel), right.gather(1, channel)) / (torch.pi / 4)
    around = torch.stack([torch.maximum(_shifted(size, *by), _shifted(size, *(-way for way in by)))
                          for by in NEIGHBOURS], -1)  # fmt: skip
    across = around.gather(-1, direction.round().long().remainder(4)[..., None])[..., 0]
    return (size > THRESHOLD) & (size >= across)


def edge_f_scores(edges: Tensor, wanted: Tensor, tolerance: int = 1) -> Tensor:
    """Returns the F-score [K] of edge maps [K, 1, S, S] against the wanted ones. An edge counts as right if a wanted
    edge is at most `tolerance` pixels away, and a wanted edge as drawn if an edge is."""
    precision, recall = _near(edges, wanted, tolerance), _near(wanted, edges, tolerance)
    return 2 * precision * recall / (precision + recall).clamp(min=1e-9)


def _near(edges: Tensor, others: Tensor, tolerance: int) -> Tensor:
    """Returns the fraction [K] of `edges` that have one of `others` nearby."""
    reached = F.max_pool2d(others.float(), 2 * tolerance + 1, 1, tolerance) > 0
    return (edges & reached).sum((1, 2, 3)) / edges.sum((1, 2, 3)).clamp(min=1)


def _filtered(images: Tensor, kernel: Tensor) -> Tensor:
    channels = images.shape[1]
    padded = F.pad(images, (1, 1, 1, 1), mode="replicate")
    return F.conv2d(padded, kernel.expand(channels, 1, 3, 3), groups=channels)


def _shifted(images: Tensor, rows: int, columns: int) -> Tensor:
    """Returns, at each pixel, the value that is `rows` further down and `columns` to the right; 0 outside."""
    height, width = images.shape[-2:]
    padded = F.pad(images, (1, 1, 1, 1))
    return padded[..., 1 + rows : 1 + rows + height, 1 + columns : 1 + columns + width]
