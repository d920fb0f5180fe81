"""Images from strangers: decoded within bounds of pixels and memory, or refused with a reason.

Pillow is imported by what decodes: the API looks only at a zip's index.
"""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF")
SIGNATURE_BYTES = 16
_SIGNATURES = (b"\x89PNG", b"\xff\xd8", b"RIFF", b"BM", b"II", b"MM", b"GIF8")
_DECODED_BYTES = 88_000_000
"""Of one image in memory."""
_PIXEL_BYTES = 4
"""Of any image with colours, as Pillow holds it."""
_COPIES = {"WEBP": 3, "TIFF": 2}
"""How often a decoder holds the whole image."""


class Refused(Exception):
    """A file that is not used, and why."""

    def __init__(self, code: str, detail: str) -> None:
        self.code, self.detail = code, detail


def check_signature(start: bytes) -> None:
    """What is no image need not be inflated. Raises Refused."""
    if not start.startswith(_SIGNATURES):
        raise _not_an_image()


def upright(data: bytes, most_pixels: int) -> "Image.Image":
    """As RGB, RGBA or L. Raises Refused."""
    from PIL import ImageOps

    with decoded(data, most_pixels) as image:
        turned = ImageOps.exif_transpose(image)
        return turned if turned.mode in {"RGB", "RGBA", "L"} else turned.convert("RGBA")


@contextmanager
def decoded(data: bytes, most_pixels: int) -> Iterator["Image.Image"]:
    """Whatever is raised meanwhile becomes Refused."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            if image.width * image.height > most_pixels:
                raise Refused("too_many_pixels", f"It has {image.width}x{image.height} pixels.")
            _check_frames(image)
            _check_room(image)
            image.load()
            yield image
    except Refused:
        raise
    except UnidentifiedImageError as error:
        raise _not_an_image() from error
    except Image.DecompressionBombError as error:
        raise Refused("too_many_pixels", "It has too many pixels.") from error
    except Exception as error:  # decoders raise nearly everything on hostile input
        raise Refused("corrupt", "It cannot be decoded.") from error


def _check_frames(image: "Image.Image") -> None:
    """Phones put a second picture, for depth or brightness, behind a JPEG: the first one is the photo. To count the
    frames of others would be to read all of them."""
    if image.format == "MPO":
        return
    try:
        image.seek(1)
    except EOFError:
        image.seek(0)
        return
    raise Refused("animated", "It is animated or has several pages.")


def _check_room(image: "Image.Image") -> None:
    """What decoding takes, by format. A large JPEG is decoded at half its size or less, as its format can be."""
    pixels, channels = image.width * image.height, len(image.getbands())
    room = 0
    if image.format in ("JPEG", "MPO"):
        if image.info.get("progressive"):  # all coefficients, two bytes each, before the first pixel
            room = pixels * channels * 2
        while pixels * _PIXEL_BYTES > _DECODED_BYTES // 2 and image.width > 1:
            before = image.size
            image.draft(None, (image.width // 2, image.height // 2))
            if image.size == before:
                break
            pixels = image.width * image.height
    bytes_a_pixel = 1 if channels == 1 else _PIXEL_BYTES
    if room + pixels * bytes_a_pixel * _COPIES.get(image.format or "", 1) > _DECODED_BYTES:
        raise Refused("too_many_pixels", f"It has {image.width}x{image.height} pixels. Send it smaller, or as a JPEG.")


def _not_an_image() -> Refused:
    return Refused("not_an_image", f"It is none of {', '.join(FORMATS)}.")
