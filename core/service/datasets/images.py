"""Decoding of untrusted images. The function `read_image` decides which file formats, sizes and pixel formats are
accepted.

Validation, example strips and training all decode with `read_image`, on a server and in `difffit train`, so that an
image that passes validation can be trained on. Each image is decoded within limits on pixels and memory, or refused
with a reason.

Only functions that decode import Pillow: the API imports this module, but reads no more than a zip's index.
"""

import io
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from core.service.datasets.confined import Confined
from core.service.extras import is_installed

if TYPE_CHECKING:
    from PIL import Image, ImageFile

    from core.artifact.pixels import Box

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF", "AVIF")
"""Formats that Pillow decodes by itself. The extra `heic` adds HEIC, which Pillow calls HEIF."""
SIGNATURE_BYTES = 16
MIN_SIDE = 8
"""Minimum length of an image's shorter side, in pixels."""
MAX_ASPECT = 16
"""Max ratio of an image's longer side to its shorter side. Above this ratio, the centered square shows next to nothing
of the image."""
KEPT_SIDE = 1024
"""Min side, in pixels, to which `read_image` reduces a larger image: the largest image size that a base model trains
at."""
_SIGNATURES = (b"\x89PNG", b"\xff\xd8", b"RIFF", b"BM", b"II", b"MM", b"GIF8")
_CONTAINER = b"ftyp"
"""Fifth to eighth byte of AVIF and HEIC files, whose common container begins with a list of brands."""
_BRANDS_BYTES = 256
_HEIC_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"}
_TIFF_SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_DECODED_BYTES = 88_000_000
"""Max bytes of memory for decoding an image as a whole. Only PNGs without interlacing are decoded in bands instead."""
_LARGE_BYTES = 16_000_000
"""Images that need more bytes of memory than this are decoded one at a time in each process."""
_COPIES = {"WEBP": 4, "TIFF": 2, "AVIF": 4, "HEIF": 4}
"""Number of copies of the whole image that a format's decoder holds in memory; 1 for all other formats."""
_PHONE_BYTES = 400_000_000
"""Max bytes of memory for decoding an AVIF or HEIC file instead of `_DECODED_BYTES`, since phones store photos of 24
megapixels as HEIC."""
_CONFINED = ("AVIF", "HEIF")
"""Formats that are decoded in a child process, which has no more memory than the declared size needs: the compressed
stream may contain a larger image, which only the decoder notices."""
_SPARE_BYTES = 64_000_000
"""Bytes of memory that a child process has for its other work, such as the returned square."""
_PIXEL_BYTES = 4
"""Bytes that a colour pixel takes in Pillow's memory."""
_BAND_BYTES = 2**20
_ORIENTATION = 0x0112
_SIDEWAYS = (5, 6, 7, 8)
"""Values of the EXIF Orientation tag that swap an image's width and height."""
_FORMAT_NAMES = {"I": "32-bit integers", "F": "floating point numbers"}

_large = threading.Lock()
_confined = Confined("core.service.datasets.images:confined_decoder")
"""Child process that decodes images. Threads call it one after the other, with `_large` locked."""


class Refused(Exception):
    """Error that rejects one file of a zip, with a stable code and a sentence that states the reason."""

    def __init__(self, code: str, detail: str) -> None:
        self.code, self.detail = code, detail


@dataclass(frozen=True)
class Picture:
    """Decoded image, with the facts about its file that the report mentions."""

    square: "Image.Image"
    """Largest centered square of the image: see `read_image`."""
    width: int
    """Width in pixels of the whole image, upright."""
    height: int
    colours: str | None
    """Name of the colour space that was converted to sRGB; None if nothing was converted."""


def check_signature(start: bytes) -> None:
    """Raises Refused unless a file starts with the signature of an image format. Called before the rest of the file is
    inflated."""
    if not start.startswith(_SIGNATURES) and start[4:8] != _CONTAINER:
        raise _not_an_image()


def read_image(data: bytes, max_pixels: int, spend: Callable[[int], None] | None = None) -> "Image.Image":
    """Decodes an image, and returns its largest centered square: upright, 8-bit sRGB, on white.

    A square with a side of at least twice `KEPT_SIDE` is reduced by area averaging, to a side from `KEPT_SIDE` up to
    twice `KEPT_SIDE`. Calls `spend` with the number of pixels before decoding them; an exception that `spend` raises
    reaches the caller. Raises Refused.
    """
    return read_picture(data, max_pixels, spend).square


def read_picture(data: bytes, max_pixels: int, spend: Callable[[int], None] | None = None) -> Picture:
    """Decodes an image as `read_image` does, and also returns its size and colour space. Raises Refused."""
    from PIL import Image

    from core.service.datasets import colours

    with _refusing(data), Image.open(io.BytesIO(data), formats=_formats(data)) as image:
        _check_size(image, max_pixels)
        _check_kind(image)
        width, height = image.size
        if spend is not None:
            try:
                spend(width * height)
            except Exception as error:
                raise _Stopped(error) from error
        orientation, converted = _orientation(image, data), colours.converted(image)
        is_confined = image.format in _CONFINED
        square = _decode_confined(image, data) if is_confined else _decode(image, data, orientation)
        if image.format == "TIFF":  # Pillow itself has turned it upright
            width, height = image.size
        elif orientation in _SIDEWAYS:
            width, height = height, width
        return Picture(square, width, height, converted)


def confined_decoder() -> Callable[[bytes], bytes]:
    """Returns the function that the child process calls: see `_decode_confined`. Prepares all decoders, since imports
    may need more memory than a call has."""
    from PIL import AvifImagePlugin, Image

    from core.service.datasets import colours  # noqa: F401  # imported for `_decode`

    AvifImagePlugin.DEFAULT_MAX_THREADS = 1  # each further thread takes memory of its own
    if is_installed("heic"):
        _register_heic()

    def decode(data: bytes) -> bytes:
        try:
            with _refusing(data), Image.open(io.BytesIO(data), formats=_formats(data)) as image:
                square = _decode(image, data, _orientation(image, data))
        except Refused as refused:
            return json.dumps([refused.code, refused.detail]).encode()
        return json.dumps(square.width).encode() + b"\n" + square.tobytes()

    return decode


def _decode_confined(image: "Image.Image", data: bytes) -> "Image.Image":
    """Returns what `_decode` returns, but decodes in the child process. Its answer is a line of JSON, the square's
    side, followed by the pixels, or the code and the sentence of a Refused."""
    from PIL import Image

    with _large:
        try:
            answer = _confined.call(data, _room(image) + _SPARE_BYTES)
        except OSError as error:  # this host cannot start a process, which is not the file's fault
            raise _Stopped(error) from error
    line, _, pixels = answer.partition(b"\n")
    side = json.loads(line)
    if isinstance(side, list):
        raise Refused(*side)
    return Image.frombytes("RGB", (side, side), pixels)


def _formats(data: bytes) -> tuple[str, ...]:
    """Returns Pillow's names of the formats that a file may have. Raises Refused for a HEIC file if the extra that
    decodes HEIC is not installed."""
    if data[4:8] != _CONTAINER:
        return FORMATS
    if _HEIC_BRANDS.isdisjoint(_brands(data)):
        return ("AVIF",)
    if not is_installed("heic"):
        raise Refused("heic_not_supported", "This service does not read HEIC. Convert the image to JPEG or PNG.")
    _register_heic()
    return ("HEIF",)


def _brands(data: bytes) -> set[bytes]:
    """Returns the brands at the start of an AVIF or HEIC file, or nothing for other files."""
    if data[4:8] != _CONTAINER:
        return set()
    end = min(int.from_bytes(data[:4], "big"), _BRANDS_BYTES)
    return {data[place : place + 4] for place in range(8, end, 4)}


@cache
def _register_heic() -> None:
    import pi_heif

    pi_heif.register_heif_opener(thumbnails=False, depth_images=False, aux_images=False, decode_threads=1)


class _Stopped(Exception):
    """Wrapper that carries an exception of the caller's `spend` through `_refusing`, which converts all others to
    Refused."""

    def __init__(self, error: Exception) -> None:
        self.error = error


@contextmanager
def _refusing(data: bytes) -> Iterator[None]:
    """Converts every exception of the `with` block to Refused, but unwraps an exception in `_Stopped`."""
    from PIL import Image, UnidentifiedImageError

    try:
        yield
    except Refused:
        raise
    except _Stopped as stopped:
        raise stopped.error from None
    except UnidentifiedImageError as error:
        raise _unidentified(data) from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise Refused("too_many_pixels", "It has too many pixels. Resize it.") from error
    except Exception as error:  # decoders raise nearly everything on hostile input
        raise _corrupt() from error


def _check_size(image: "Image.Image", max_pixels: int) -> None:
    width, height = image.size
    if width * height > max_pixels:
        raise Refused(
            "too_many_pixels", f"It has {width}x{height} pixels; at most {max_pixels:,} are allowed. Resize it."
        )
    if min(width, height) < MIN_SIDE:
        raise Refused("too_small", f"It has {width}x{height} pixels; each side must have at least {MIN_SIDE}.")
    if max(width, height) > MAX_ASPECT * min(width, height):
        detail = (
            f"It has {width}x{height} pixels; one side may be at most {MAX_ASPECT} times as long as the other. Crop it."
        )
        raise Refused("too_thin", detail)


def _check_kind(image: "Image.Image") -> None:
    """Raises Refused for animations, files of several pages, and pixel formats without a known range of values. Accepts
    a JPEG that is followed by a second image for depth or brightness, as phones store (MPO): the first image is the
    photo."""
    from core.service.datasets.colours import DEEP_GREYS, PIXEL_FORMATS

    if image.format != "MPO" and getattr(image, "is_animated", False):
        raise Refused("animated", "It is animated or has several pages. Save a single image.")
    if image.mode not in PIXEL_FORMATS | DEEP_GREYS:
        raise _pixel_format(_FORMAT_NAMES.get(image.mode, image.mode))


def _decode(image: "ImageFile.ImageFile", data: bytes, orientation: int) -> "Image.Image":
    from PIL import Image

    from core.artifact.pixels import center_square
    from core.service.datasets import colours

    is_streamed = image.format == "PNG" and not image.info.get("interlace")
    is_small = is_streamed or _room(image) <= _LARGE_BYTES
    with nullcontext() if is_small else _large:
        if not is_streamed:
            image.load()
            if image.size != image.im.size:
                raise ValueError("the header and the pixels differ in size")
        box = center_square(image.size)
        side = box[2] - box[0]
        factor = max(1, side // KEPT_SIDE)
        rows = factor * max(1, _BAND_BYTES // (image.width * _PIXEL_BYTES * factor))
        bands = _streamed(image, data, box, rows) if is_streamed else _cropped(image, box, rows)
        try:
            square = colours.assemble(bands, side, factor, image)
        except colours.Transparent as error:
            raise Refused("transparent", "It is fully transparent.") from error
    turns = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_270,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_90,
    }
    return square.transpose(turns[orientation]) if orientation in turns else square


def _streamed(image: "ImageFile.ImageFile", data: bytes, box: "Box", rows: int) -> Iterator["Image.Image"]:
    """Yields horizontal bands of the region `box` of a PNG while decoding it, each `rows` pixels high. Also decodes the
    pixels above and below the box, which raises an error if they are broken."""
    from core.service.datasets import png

    left, top, right, bottom = box
    cuts = sorted({*range(0, top, rows), *range(top, bottom, rows), *range(bottom, image.height, rows), image.height})
    for start, band in png.bands(image, data, cuts):
        if top <= start < bottom:
            yield band.crop((left, 0, right, band.height))


def _cropped(image: "Image.Image", box: "Box", rows: int) -> Iterator["Image.Image"]:
    """Yields horizontal bands of the region `box` of a decoded image, each `rows` pixels high."""
    left, top, right, bottom = box
    for start in range(top, bottom, rows):
        yield image.crop((left, start, right, min(start + rows, bottom)))


def _orientation(image: "Image.Image", data: bytes) -> int:
    """Returns the value of an image's EXIF Orientation tag; 1 (upright) if there is none. Ignores all other tags, which
    do not affect pixels and may be broken. Returns 1 for every TIFF, since Pillow itself turns TIFFs upright."""
    from PIL import Image

    from core.service.datasets import png

    if image.format == "PNG" and "exif" not in image.info:  # the EXIF chunk may follow the pixels
        late = next((bytes(content) for kind, content in png.chunks(data) if kind == b"eXIf"), None)
        if late is not None:
            image.info["exif"] = late
    try:
        exif = Image.Image.getexif(image)  # a PNG's own method would decode the image
        orientation = exif.get(_ORIENTATION, 1)
    except Exception:  # Pillow raises nearly everything on broken metadata
        return 1
    if image.format != "TIFF":
        return orientation if isinstance(orientation, int) else 1
    for tag in set(exif) - {_ORIENTATION}:  # Pillow would read all tags to turn the TIFF upright
        del exif[tag]
    return 1


def _room(image: "Image.Image") -> int:
    """Returns the bytes of memory that decoding an image takes. Sets a large JPEG to be decoded at half its size or
    less, which the JPEG format allows. Raises Refused above `_DECODED_BYTES`."""
    passes = 0
    width, height = image.size
    if image.format in ("JPEG", "MPO"):
        layers = getattr(image, "layer", [])
        if image.info.get("progressive") and layers:  # the decoder holds all coefficients, two bytes each
            whole = max(across for _, across, _, _ in layers) * max(down for _, _, down, _ in layers)
            passes = 2 * width * height * sum(across * down for _, across, down, _ in layers) // whole
        factor = max(1, min(width, height) // KEPT_SIDE)
        image.draft(None, (width // factor, height // factor))
    bytes_a_pixel = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16B": 2, "I;16L": 2}.get(image.mode, _PIXEL_BYTES)
    room = passes + image.width * image.height * bytes_a_pixel * _COPIES.get(image.format or "", 1)
    if room > (_PHONE_BYTES if image.format in _CONFINED else _DECODED_BYTES):
        raise Refused(
            "too_many_pixels",
            f"It has {width}x{height} pixels, too many for its format. Resize it, or convert it to PNG or JPEG.",
        )
    return room


def _unidentified(data: bytes) -> Refused:
    """Returns the Refused for a file that Pillow cannot identify: a TIFF of an unsupported pixel format, a broken AVIF
    or HEIC file, or no image."""
    from PIL import TiffImagePlugin

    if _brands(data) & {b"avif", *_HEIC_BRANDS}:
        return _corrupt()
    if data.startswith(_TIFF_SIGNATURES):
        try:
            TiffImagePlugin.TiffImageFile(io.BytesIO(data))
        except SyntaxError as error:
            if "pixel mode" in str(error):
                return _pixel_format("this kind of TIFF")
        except Exception:  # noqa: S110  # the file is refused anyway
            pass
    return _not_an_image()


def _corrupt() -> Refused:
    return Refused("corrupt", "It cannot be decoded. Save it again.")


def _pixel_format(name: str) -> Refused:
    return Refused(
        "pixel_format", f"Its pixel format ({name}) is not supported. Save it with 8 or 16 bits per channel."
    )


def _not_an_image() -> Refused:
    formats = ", ".join([*FORMATS, *(["HEIC"] if is_installed("heic") else [])])
    return Refused("not_an_image", f"It is not in a supported format ({formats}). Convert it.")
