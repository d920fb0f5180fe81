"""Latents of the training images. Images are encoded once; each training step samples from the encoded posterior.

Letters in shapes: K images, C latent channels, H and W latent height and width.
"""

import math
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from core.artifact.pixels import center_crop, on_white
from core.ml.model.autoencoder import to_uint8
from core.ml.model.device import is_out_of_memory, release_memory


@dataclass(frozen=True)
class Latents:
    """The autoencoder's posterior (mean and standard deviation) of each training image and of its mirror image, scaled
    as the transformer expects it."""

    mean: Tensor
    """[2, K, C, H, W]; index 0 is the image itself, 1 its mirror image."""
    deviation: Tensor
    """[2, K, C, H, W]"""
    labels: Tensor
    """[K] class ids"""

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, indices: Tensor) -> "Latents":
        return Latents(self.mean[:, indices], self.deviation[:, indices], self.labels[indices])

    def to(self, device: torch.device) -> "Latents":
        return Latents(self.mean.to(device), self.deviation.to(device), self.labels.to(device))

    def split(self, held_out_fraction: float, generator: torch.Generator) -> tuple["Latents", "Latents"]:
        """Splits the images into a training part and a held-out part. `held_out_fraction` of each class is held out,
        rounded down, so that a class of few images keeps all of them. If that holds out nothing, one image of the
        largest class is held out, unless that class has only one image."""
        held_out: list[int] = []
        for label in self.labels.unique().tolist():
            members = (self.labels == label).nonzero().flatten()
            shuffled = members[torch.randperm(len(members), generator=generator)]
            held_out += shuffled[: math.floor(len(members) * held_out_fraction)].tolist()
        if not held_out and held_out_fraction > 0:
            largest = int(self.labels.bincount().argmax())
            members = (self.labels == largest).nonzero().flatten()
            held_out = members[-1:].tolist() if len(members) > 1 else []
        chosen = torch.zeros(len(self), dtype=torch.bool)
        chosen[held_out] = True
        return self.subset((~chosen).nonzero().flatten()), self.subset(chosen.nonzero().flatten())


Encode = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Function that encodes images [B, 3, S, S] in [-1, 1]. Returns the posterior's scaled mean and standard deviation,
each [B, C, H, W]."""


Prepared = tuple[Tensor, Tensor]
"""A batch of images: class ids [B] and pixels [B, 3, S, S] in [-1, 1]."""


def prepare_images(
    images: Iterable[tuple[int, Image.Image]], image_size: int, *, batch_size: int = 16
) -> Generator[Prepared, None, None]:
    """Crops and resizes (class id, image) pairs, and yields them in batches.

    Each image is resized before the next image is read, so that memory holds at most one image at its full size and one
    batch of resized images.
    """
    source = ((label, to_pixels(image, image_size)) for label, image in images)
    try:
        while batch := list(islice(source, batch_size)):
            labels = torch.tensor([label for label, _ in batch], dtype=torch.long)
            yield labels, torch.stack([one for _, one in batch])
    finally:
        if isinstance(images, Generator):  # closes the generator's file, even if the generator is still referenced
            images.close()


def encode_batch(batch: Prepared, encode: Encode) -> Latents:
    """Encodes a batch of images and their mirror images. When memory runs out, encodes each half of the batch
    separately. Raises the errors of `encode`; an out-of-memory error only for a single image."""
    labels, pixels = batch
    try:
        mean, deviation = zip(encode(pixels), encode(pixels.flip(-1)), strict=True)
        return Latents(torch.stack(mean).cpu(), torch.stack(deviation).cpu(), labels)
    except (RuntimeError, MemoryError) as error:
        if len(labels) == 1 or not is_out_of_memory(error):
            raise
    release_memory()
    halves = zip(labels.tensor_split(2), pixels.tensor_split(2), strict=True)
    return concatenate([encode_batch(half, encode) for half in halves])


def encode_images(
    images: Iterable[tuple[int, Image.Image]], encode: Encode, image_size: int, *, batch_size: int = 16
) -> Iterator[Latents]:
    """Encodes (class id, image) pairs, and yields the latents of each batch. `concatenate` joins the batches."""
    for batch in prepare_images(images, image_size, batch_size=batch_size):
        yield encode_batch(batch, encode)


def concatenate(parts: Sequence[Latents]) -> Latents:
    return Latents(
        torch.cat([part.mean for part in parts], 1),
        torch.cat([part.deviation for part in parts], 1),
        torch.cat([part.labels for part in parts]),
    )


def to_pixels(image: Image.Image, size: int) -> Tensor:
    """Returns a center crop of the image, resized to [3, size, size] in [-1, 1]. Transparent pixels become white."""
    array = np.asarray(center_crop(on_white(image), size), dtype=np.float32) / 127.5 - 1  # [S, S, 3]
    return torch.from_numpy(array).permute(2, 0, 1).contiguous()


def to_image(pixels: Tensor) -> Image.Image:
    """Converts pixels [3, S, S] in [-1, 1] into an 8-bit image."""
    return Image.fromarray(to_uint8(pixels).permute(1, 2, 0).cpu().numpy())


def image_grid(images: Sequence[Image.Image], columns: int, gap: int = 2) -> Image.Image:
    """Returns one image that shows `images`, all of the same size, in a grid on white, row by row."""
    width, height = images[0].size
    lines = -(-len(images) // columns)
    grid = Image.new("RGB", (columns * (width + gap) + gap, lines * (height + gap) + gap), "white")
    for index, image in enumerate(images):
        row, column = divmod(index, columns)
        grid.paste(image, (gap + column * (width + gap), gap + row * (height + gap)))
    return grid
