"""Nearest training drawings of generated pictures, so that copying would be seen.

Letters in shapes: Q pictures asked about, R references, D values of each, S side in pixels.
"""

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

GAP, BESIDE = 2, 8


@dataclass(frozen=True)
class Neighbours:
    distances: Tensor
    """[Q, count] root mean squared difference of a value, nearest first"""
    places: Tensor
    """[Q, count] which references"""


def nearest(queries: Tensor, references: Tensor, count: int) -> Neighbours:
    """By pixels or features: queries [Q, ...] and references [R, ...] of one shape, in the values' own units.

    Raises ValueError when there are fewer than `count` references.
    """
    if len(references) < count:
        raise ValueError(f"{count} neighbours of {len(references)} references")
    queries, references = queries.flatten(1).float(), references.flatten(1).float()
    # By matrix products a copy would not come out at zero.
    apart = torch.cdist(queries, references, compute_mode="donot_use_mm_for_euclid_dist")
    distances, places = apart.topk(count, largest=False)
    return Neighbours(distances / queries.shape[1] ** 0.5, places)


def sheet(queries: Tensor, references: Tensor, places: Tensor, columns: int = 2, zoom: int = 1) -> Image.Image:
    """Each picture with its neighbours to the right of it: queries [Q, 3, S, S] and references [R, 3, S, S] uint8,
    places [Q, count]. Two or more such groups a line."""
    side = queries.shape[-1] * zoom
    width = (1 + places.shape[1]) * (side + GAP) + 2 * BESIDE
    lines = -(-len(queries) // columns)
    whole = Image.new("RGB", (columns * width, lines * (side + GAP)), "white")
    for index, (query, near) in enumerate(zip(queries, places.tolist(), strict=True)):
        line, column = divmod(index, columns)
        for number, picture in enumerate([query, *references[near]]):
            left = column * width + number * (side + GAP) + (BESIDE if number else 0)
            whole.paste(_image(picture, side), (left, line * (side + GAP)))
    return whole


def _image(picture: Tensor, side: int) -> Image.Image:
    image = Image.fromarray(np.ascontiguousarray(picture.permute(1, 2, 0).numpy()))
    return image.resize((side, side), Image.Resampling.NEAREST)
