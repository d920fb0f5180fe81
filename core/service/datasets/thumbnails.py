"""Thumbnails of a data set's images: one object in the object store for each zip, with one JPEG after the other."""

import io
from typing import IO, TYPE_CHECKING

from core.service.storage.scratch import writing_scratch

if TYPE_CHECKING:
    from PIL import Image

SIDE = 96
"""Width and height of each thumbnail, in pixels."""
_QUALITY = 85


class Thumbnails:
    """Thumbnails that are being written to the open file `file`."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file

    def add(self, square: "Image.Image") -> tuple[int, int]:
        """Writes the thumbnail of a square image. Returns the thumbnail's offset in the file, and its size, in
        bytes. Raises ScratchFull."""
        from core.artifact.pixels import center_crop

        buffer = io.BytesIO()
        center_crop(square, SIDE).save(buffer, "JPEG", quality=_QUALITY)
        with writing_scratch():
            return self.file.tell(), self.file.write(buffer.getvalue())
