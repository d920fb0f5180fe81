"""Joins the horizontal bands of an image, in any pixel format, to one square 8-bit sRGB image on white."""

import io
from collections.abc import Iterable

import numpy as np
from PIL import Image, ImageCms

from core.artifact.pixels import on_white

PIXEL_FORMATS = frozenset(("1", "L", "LA", "P", "PA", "RGB", "RGBX", "RGBA", "RGBa", "CMYK", "YCbCr"))
DEEP_GREYS = frozenset(("I;16", "I;16B", "I;16L", "I;16N"))
_DEPTHS = (8, 10, 12, 14, 16)
"""Bit depths that cameras and scanners store in 16-bit samples."""
_PROFILE_BYTES = 4 * 2**20
_SPACES = {"L": "GRAY", "RGB": "RGB", "CMYK": "CMYK"}
_SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


class Transparent(Exception):
    """Error for an image that is fully transparent."""


def converted(whole: Image.Image) -> str | None:
    """Returns the name of the colour space from which `assemble` converts an image to sRGB, such as CMYK or the name of
    an ICC profile. Returns None for sRGB, and for an image without a profile, which is taken as sRGB."""
    if whole.mode in DEEP_GREYS:
        return "16-bit grey"
    if whole.mode == "CMYK":
        return "CMYK"
    profile = _profile(whole.info.get("icc_profile"))
    if profile is None or whole.mode == "L" or profile.profile.xcolor_space.strip() != "RGB":
        return None
    name: str = ImageCms.getProfileDescription(profile).strip()
    return None if "sRGB" in name else name[:100] or "RGB"


def _profile(data: bytes | None) -> ImageCms.ImageCmsProfile | None:
    """Parses an ICC profile. Returns None if there is none, or if it is too large or broken."""
    if not data or len(data) > _PROFILE_BYTES:
        return None
    try:
        return ImageCms.ImageCmsProfile(io.BytesIO(data))
    except (OSError, ValueError, ImageCms.PyCMSError):
        return None


def assemble(bands: Iterable[Image.Image], side: int, factor: int, whole: Image.Image) -> Image.Image:
    """Returns one square RGB image, made from horizontal bands in order from top to bottom. Each band is `side` pixels
    wide; together they are `side` pixels high. The result is reduced by `factor` through area averaging.

    The height of every band but the last is a multiple of `factor`. Colours are converted to sRGB from the ICC profile
    of `whole`, the image that the bands were cut from; a profile that is broken, or made for other channels, is
    ignored. Transparency is composited on white. Raises Transparent if every pixel is fully transparent.
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
    """Returns the largest alpha value of a band, 0 to 255; 255 for a band without alpha."""
    return int(np.asarray(band.getchannel("A")).max()) if band.mode == "RGBA" else 255


def _plain(band: Image.Image) -> Image.Image:
    """Converts a band to mode L, RGB, RGBA or CMYK, whose values can be averaged, unlike palette indices."""
    if band.has_transparency_data:
        return band.convert("RGBA")
    if band.mode in ("L", "RGB", "CMYK"):
        return band
    return band.convert("L" if band.mode == "1" else "RGB")


def _in_srgb(
    band: Image.Image, profile: bytes | None, transforms: dict[str, ImageCms.ImageCmsTransform | None]
) -> Image.Image:
    """Converts a band to sRGB, as RGB or RGBA, if the ICC `profile` fits the band's channels; otherwise returns the
    band unchanged. `transforms` caches the profile's transform for each mode."""
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
    source = _profile(profile)
    if source is None or source.profile.xcolor_space.strip() != _SPACES[mode]:
        return None
    try:
        return ImageCms.buildTransform(source, ImageCms.ImageCmsProfile(io.BytesIO(_SRGB)), mode, "RGB")
    except (OSError, ValueError, ImageCms.PyCMSError):
        return None


class _DeepGrey:
    """Converter of grey images with 16-bit samples to 8 bits. White is the maximum of the bit depth that the image's
    largest value needs, so that values can be scaled only after all bands were read."""

    def __init__(self, whole: Image.Image) -> None:
        self._key = whole.info.get("transparency")
        self._white_is_zero = whole.format == "TIFF" and whole.tag_v2.get(262) == 0  # type: ignore[attr-defined]
        self._highest = 0

    def read(self, band: Image.Image) -> Image.Image:
        """Returns a band in mode F, and remembers its largest value. Pixels of the image's transparent colour become
        white."""
        values = np.asarray(band.convert("I"))
        if self._key is not None:
            values = np.where(values == self._key, 2**16 - 1, values)
        self._highest = max(self._highest, int(values.max()))
        return Image.fromarray(values.astype(np.float32))

    def in_eight_bits(self, canvas: Image.Image) -> Image.Image:
        """Returns a canvas of bands from `read`, scaled to 8 bits, as RGB."""
        white = 2 ** next(bits for bits in _DEPTHS if self._highest < 2**bits) - 1
        shares = np.asarray(canvas) / white
        if self._white_is_zero:
            shares = 1 - shares
        return Image.fromarray((shares * 255).round().astype(np.uint8)).convert("RGB")
