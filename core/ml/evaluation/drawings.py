"""Real emoji drawings, with which generated images are compared: read from class folders, split by emoji.

Letters in shapes: K drawings, S side in pixels.
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from core.artifact.pixels import center_crop, on_white

HELD_OUT_EVERY, HELD_OUT_REMAINDER = 5, 1
"""Divisor and remainder that select the held-out emoji by a hash of their name: about one in five, the same in every
set. With this remainder, each class has held-out emoji."""


@dataclass(frozen=True)
class Drawings:
    """Real drawings with their classes, the names of the emoji that they show, and the emoji sets that they come
    from."""

    pixels: Tensor
    """[K, 3, S, S] uint8"""
    labels: Tensor
    """[K] class labels, as indices into `class_names`"""
    emoji: tuple[str, ...]
    sets: tuple[str, ...]
    """Emoji set of each drawing; "" if the file name contains none"""
    class_names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, indices: Tensor) -> "Drawings":
        emoji, sets = (tuple(names[index] for index in indices.tolist()) for names in (self.emoji, self.sets))
        return Drawings(self.pixels[indices], self.labels[indices], emoji, sets, self.class_names)

    def split(self) -> tuple["Drawings", "Drawings"]:
        """Returns the drawings that the classifier may train on, and the held-out drawings that it never sees."""
        held_out = torch.tensor([is_held_out(name) for name in self.emoji], dtype=torch.bool)
        return self.subset((~held_out).nonzero().flatten()), self.subset(held_out.nonzero().flatten())


def is_held_out(emoji: str) -> bool:
    """Returns whether an emoji is held out. Depends only on its name, so that its drawings in all sets are on the same
    side of the split."""
    return zlib.crc32(emoji.encode()) % HELD_OUT_EVERY == HELD_OUT_REMAINDER


def read_drawings(folder: Path, size: int = 64) -> Drawings:
    """Reads all files `<class>/<set>--<emoji>.png` or `<class>/<emoji>.png` in a folder, classes and files in
    alphabetical order.

    Raises FileNotFoundError if there are none.
    """
    paths = sorted(folder.glob("*/*.png"))
    if not paths:
        raise FileNotFoundError(f"no drawings in {folder}: run recipes.drawings first")
    class_names = sorted({path.parent.name for path in paths})
    return Drawings(
        pixels=to_bytes([Image.open(path) for path in paths], size),
        labels=torch.tensor([class_names.index(path.parent.name) for path in paths]),
        emoji=tuple(path.stem.rpartition("--")[2] for path in paths),
        sets=tuple(path.stem.rpartition("--")[0] for path in paths),
        class_names=tuple(class_names),
    )


def joined(first: Drawings, second: Drawings) -> Drawings:
    """Concatenates two collections of drawings. Raises ValueError if they have different classes."""
    if first.class_names != second.class_names:
        raise ValueError("the two sets of drawings must have the same classes")
    return Drawings(
        torch.cat([first.pixels, second.pixels]),
        torch.cat([first.labels, second.labels]),
        first.emoji + second.emoji,
        first.sets + second.sets,
        first.class_names,
    )


def to_bytes(images: Sequence[Image.Image], size: int) -> Tensor:
    """Returns images as a tensor [K, 3, size, size] uint8: composited on white, cropped to the largest centered square
    and resized."""
    squares = [np.asarray(center_crop(on_white(image), size)) for image in images]
    return torch.from_numpy(np.stack(squares)).permute(0, 3, 1, 2).contiguous()
