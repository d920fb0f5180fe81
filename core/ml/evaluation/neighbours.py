"""Nearest training images of generated images, which show whether a model copies its training data.

Letters in shapes: Q generated images (queries), R training images (references), S side in pixels.
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
    """[Q, count] root mean squared difference per value, nearest first"""
    places: Tensor
    """[Q, count] indices of the neighbours among the references"""


def nearest(queries: Tensor, references: Tensor, count: int) -> Neighbours:
    """Returns the `count` nearest references of each query, by their pixels or features: queries [Q, ...] and
    references [R, ...] of one shape. Distances are in the values' own units.

    Raises ValueError if there are fewer than `count` references.
    """
    if len(references) < count:
        raise ValueError(f"{count} neighbours of {len(references)} references")
    queries, references = queries.flatten(1).float(), references.flatten(1).float()
    # If computed with matrix products, the distance of an exact copy would not be zero.
    apart = torch.cdist(queries, references, compute_mode="donot_use_mm_for_euclid_dist")
    distances, places = apart.topk(count, largest=False)
    return Neighbours(distances / queries.shape[1] ** 0.5, places)


def sheet(queries: Tensor, references: Tensor, places: Tensor, columns: int = 2, zoom: int = 1) -> Image.Image:
    """Returns one large image in which each query is followed by its neighbours: queries [Q, 3, S, S] and references
    [R, 3, S, S] uint8, places [Q, count] the neighbours' indices. A line holds `columns` queries with their
    neighbours."""
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
