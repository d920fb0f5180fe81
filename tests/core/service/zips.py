"""Zips and images for tests of data sets."""

import io
import zipfile

from PIL import Image

from core.service.datasets.archive import Limits

LIMITS = Limits(members=50, image_bytes=2**20, inflated_bytes=2**23, pixels=10**6, classes=5)


def picture(color: int, size: tuple[int, int] = (8, 8), mode: str = "RGB", format: str = "PNG") -> bytes:
    """Returns an image that is different for each colour."""
    buffer = io.BytesIO()
    Image.new(mode, size, (color % 256, color // 256, 7) if mode == "RGB" else color).save(buffer, format)
    return buffer.getvalue()


def zipped(files: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> io.BytesIO:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return buffer


GOOD = {"cat/1.png": picture(1), "cat/2.png": picture(2), "dog/1.png": picture(3)}
