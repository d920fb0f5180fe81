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
    """Yields (class id, PNG) for the first `CLASSES` classes of a validated zip. Each PNG shows thumbnails of the
    class's first `IMAGES` images side by side."""
    ordered = sorted(members, key=lambda member: (member["class_id"], member["file"]))
    chosen: list[dict[str, Any]] = []
    for class_id, of_class in groupby(ordered, key=lambda member: member["class_id"]):
        if class_id < CLASSES:
            chosen += list(of_class)[:IMAGES]
    for class_id, images in groupby(read_images(file, chosen, limits), key=lambda member: member[0]):
        yield class_id, _strip([center_crop(image, SIDE) for _, image in images])


def _strip(pictures: list[Image.Image]) -> bytes:
    sheet = Image.new("RGB", (SIDE * len(pictures), SIDE), "white")
    for position, picture in enumerate(pictures):
        sheet.paste(picture, (position * SIDE, 0))
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
