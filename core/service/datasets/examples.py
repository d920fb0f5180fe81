"""Example strips: one PNG per class of a data set with thumbnails of its first images, so that users see what they
uploaded."""

import io
from collections.abc import Iterator
from itertools import groupby
from typing import IO, Any

from PIL import Image

from core.artifact.pixels import center_crop
from core.service.datasets.archive import Limits, read_images
from core.service.datasets.thumbnails import SIDE

CLASSES = 100
"""Max classes with an example strip. Classes with higher ids have none."""
IMAGES = 8


def strips(file: IO[bytes], members: list[dict[str, Any]], limits: Limits) -> Iterator[tuple[int, bytes]]:
    """Yields (class id, PNG) for the first `CLASSES` classes of a validated zip, as `strips_of` does."""
    return strips_of(read_images(file, first_images(members), limits))


def first_images(members: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns the members that example strips show: the first `IMAGES` of each of the first `CLASSES` classes."""
    ordered = sorted(members, key=lambda member: (member["class_id"], member["file"]))
    chosen: list[dict[str, Any]] = []
    for class_id, of_class in groupby(ordered, key=lambda member: member["class_id"]):
        if class_id < CLASSES:
            chosen += list(of_class)[:IMAGES]
    return chosen


def strips_of(images: Iterator[tuple[int, Image.Image]]) -> Iterator[tuple[int, bytes]]:
    """Yields (class id, PNG) for each class of the images, which are ordered by class. Each PNG shows thumbnails of the
    class's images side by side."""
    for class_id, of_class in groupby(images, key=lambda image: image[0]):
        yield class_id, _strip([center_crop(image, SIDE) for _, image in of_class])


def _strip(pictures: list[Image.Image]) -> bytes:
    sheet = Image.new("RGB", (SIDE * len(pictures), SIDE), "white")
    for position, picture in enumerate(pictures):
        sheet.paste(picture, (position * SIDE, 0))
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
