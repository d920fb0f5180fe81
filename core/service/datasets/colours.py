"""Composes the bands of an image, in any pixel format, into one 8-bit sRGB square on white."""

import io
from collections.abc import Iterable

import numpy as np
from PIL import Image, ImageCms

from core.artifact.pixels import on_white

PIXEL_FORMATS = frozenset(("1", "L", "LA", "P", "PA", "RGB", "RGBX", "RGBA", "RGBa", "CMYK", "YCbCr"))
DEEP_GREYS = frozenset(("I;16", "I;16B", "I;16L", "I;16N"))
_DEPTHS = (8, 10, 12, 14, 16)
"""Bits of a sample that cameras and scanners store in 16."""
_PROFILE_BYTES = 4 * 2**20
_SPACES = {"L": "GRAY", "RGB": "RGB", "CMYK": "CMYK"}
_SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


class Transparent(Exception):
    """An image of which nothing can be seen."""


def assemble(bands: Iterable[Image.Image], side: int, factor: int, whole: Image.Image) -> Image.Image:
    """Returns the bands, `side` wide and in all as high, reduced by `factor` and one below another, as RGB.

    Every band but the last has a multiple of `factor` rows. Colours are converted from the profile of `whole`, the
    image that they come from; a profile that is broken, or made for other channels, is ignored. Transparency is laid
    on white. Raises Transparent.
    """
    length = -(-side // factor)
    profile = whole.info.get("icc_profile")
    deep = _DeepGrey(whole) if whole.mode in DEEP_GREYS else None
    canvas = Image.new("F" if deep else "RGB", (length, length), "white" if not deep else 0)
    opacity, row = 0, 0
    transforms: dict[str, ImageCms.ImageCmsTransform | None] = {}
    for band in bands:
        small = (deep.read(band) if deep else _plain(band)).reduce(factor)
        opacity = max(opacity, _opacity(small))
        canvas.paste(small if deep else on_white(_in_srgb(small, profile, transforms)), (0, row))
        row += small.height
    if not opacity:
        raise Transparent()
    return deep.in_eight_bits(canvas) if deep else canvas


def _opacity(band: Image.Image) -> int:
    """Returns the largest alpha."""
    return int(np.asarray(band.getchannel("A")).max()) if band.mode == "RGBA" else 255


def _plain(band: Image.Image) -> Image.Image:
    """Returns a band as L, RGB, RGBA or CMYK, which can be averaged."""
    if band.has_transparency_data:
        return band.convert("RGBA")
    if band.mode in ("L", "RGB", "CMYK"):
        return band
    return band.convert("L" if band.mode == "1" else "RGB")


def _in_srgb(
    band: Image.Image, profile: bytes | None, transforms: dict[str, ImageCms.ImageCmsTransform | None]
) -> Image.Image:
    """Returns a band as RGB or RGBA if its profile fits, else unchanged. `transforms` is a cache."""
    if profile is None:
        return band
    colours = band.convert("RGB") if band.mode == "RGBA" else band
    if colours.mode not in transforms:
        transforms[colours.mode] = _transform(profile, colours.mode)
    transform = transforms[colours.mode]
    if transform is None:
        return band
    converted = ImageCms.applyTransform(colours, transform)
    assert converted is not None
    if band.mode == "RGBA":
        converted.putalpha(band.getchannel("A"))
    return converted


def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    if len(profile) > _PROFILE_BYTES:
        return None
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if source.profile.xcolor_space.strip() != _SPACES[mode]:
            return None
        return ImageCms.buildTransform(source, ImageCms.ImageCmsProfile(io.BytesIO(_SRGB)), mode, "RGB")
    except (OSError, ValueError, ImageCms.PyCMSError):
        return None


class _DeepGrey:
    """Grey of more than 8 bits: scaled by the bits that the largest value needs, which only the whole image shows."""

    def __init__(self, whole: Image.Image) -> None:
        self._key = whole.info.get("transparency")
        self._white_is_zero = whole.format == "TIFF" and whole.tag_v2.get(262) == 0  # type: ignore[attr-defined]
        self._highest = 0

    def read(self, band: Image.Image) -> Image.Image:
        """Returns a band as mode F, and remembers its largest value. A colour key becomes white."""
        values = np.asarray(band.convert("I"))
        if self._key is not None:
            values = np.where(values == self._key, 2**16 - 1, values)
        self._highest = max(self._highest, int(values.max()))
        return Image.fromarray(values.astype(np.float32))

    def in_eight_bits(self, canvas: Image.Image) -> Image.Image:
        """Returns a canvas of such bands as RGB."""
        white = 2 ** next(bits for bits in _DEPTHS if self._highest < 2**bits) - 1
        shares = np.asarray(canvas) / white
        if self._white_is_zero:
            shares = 1 - shares
        return Image.fromarray((shares * 255).round().astype(np.uint8)).convert("RGB")
