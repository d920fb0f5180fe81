"""Images from cameras, scanners and programs, read by the function that validation and training share."""

import io
import struct
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image, ImageCms, PngImagePlugin
from PIL.ImageCms import ImageCmsProfile

from core.artifact.pixels import center_crop, on_white
from core.service.datasets import images
from core.service.datasets.images import KEPT_SIDE, MAX_ASPECT, MIN_SIDE, Refused, read_image

MAX_PIXELS = 50_000_000
RED = (200, 30, 40)


def encoded(image: Image.Image, format: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def noise(width: int, height: int, channels: int) -> np.ndarray:
    pixels = np.random.default_rng(1).integers(0, 256, (height, width, channels), np.uint8)
    return pixels[:, :, 0] if channels == 1 else pixels


def refusal(data: bytes) -> Refused:
    with pytest.raises(Refused) as caught:
        read_image(data, MAX_PIXELS)
    return caught.value


def mean(data: bytes) -> float:
    return float(np.asarray(read_image(data, MAX_PIXELS)).mean())


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
@pytest.mark.parametrize("size", [(40, 30), (8, 100), (999, 1200)])
def test_png_read_in_bands_has_the_pixels_that_pillow_decodes(mode: str, size: tuple[int, int]) -> None:
    picture = Image.fromarray(noise(*size, 4)).convert(mode)
    square = read_image(encoded(picture), MAX_PIXELS)
    assert square.tobytes() == center_crop(on_white(picture), min(size)).tobytes()


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_png_of_few_colours_has_the_pixels_that_pillow_decodes(bits: int) -> None:
    picture = Image.fromarray(noise(53, 47, 3)).quantize(2**bits)
    data = encoded(picture, bits=bits)
    assert data[24] == bits
    assert read_image(data, MAX_PIXELS).tobytes() == center_crop(picture.convert("RGB"), 47).tobytes()


@pytest.mark.parametrize(("colour", "channels"), [(0, 1), (2, 3), (4, 2), (6, 4)])
def test_png_of_16_bits_is_read_by_its_high_bytes(colour: int, channels: int) -> None:
    values = np.random.default_rng(2).integers(0, 2**16, (12, 12, channels), np.uint16)
    values[..., -1] |= 0xFF00  # opaque, if the channel is alpha
    square = read_image(png16(values, colour), MAX_PIXELS)
    expected = values[..., :1].repeat(3, -1) if channels < 3 else values[..., :3]
    difference = np.asarray(square).astype(int) - (expected >> 8)
    assert abs(difference).max() <= 1


def png16(values: np.ndarray, colour: int, *chunks: tuple[bytes, bytes]) -> bytes:
    """Returns a PNG of 16 bits per channel, in which each row has another filter."""
    height, width, channels = values.shape
    rows = values.astype(">u2").view(np.uint8).reshape(height, -1).astype(int)
    step, packed = channels * 2, b""
    for number, row in enumerate(rows):
        up = rows[number - 1] if number else np.zeros_like(row)
        left = np.concatenate([np.zeros(step, int), row[:-step]])
        corner = np.concatenate([np.zeros(step, int), up[:-step]])
        ways = np.abs(np.stack([left, up, corner]) - (left + up - corner))
        paeth = np.choose(ways.argmin(0), [left, up, corner])
        kind = number % 5
        predicted = [0, left, up, (left + up) // 2, paeth][kind]
        packed += bytes([kind]) + ((row - predicted) % 256).astype(np.uint8).tobytes()
    header = struct.pack(">2I5B", width, height, 16, colour, 0, 0, 0)
    parts = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(packed)), (b"IEND", b"")]
    chunks = (
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in parts
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_deep_grey_is_scaled_by_the_bits_that_its_values_use(bits: int, format: str) -> None:
    ramp = np.tile(np.linspace(0, 2**bits - 1, 64).astype(np.uint16), (64, 1))
    assert mean(encoded(Image.fromarray(ramp), format)) == pytest.approx(127.5, abs=1)


def test_deep_grey_tiff_whose_zero_is_white_is_inverted() -> None:
    ramp = np.full((16, 16), 2**16 - 1, np.uint16)
    ramp[:4] = 0
    data = bytearray(encoded(Image.fromarray(ramp), "TIFF"))
    tag = data.index(struct.pack("<2HI", 262, 3, 1))
    data[tag + 8] = 0
    assert mean(bytes(data)) == pytest.approx(255 / 4, abs=1)


@pytest.mark.parametrize("type", [np.float32, np.int32])
def test_formats_without_a_scale_of_pixels_are_rejected(type: type) -> None:
    refused = refusal(encoded(Image.fromarray(np.ones((16, 16), type)), "TIFF"))
    assert refused.code == "pixel_format"
    assert ("floating" if type is np.float32 else "integers") in refused.detail


def test_tiff_of_three_floats_per_pixel_is_rejected() -> None:
    data = bytearray(encoded(Image.new("RGB", (16, 16)), "TIFF"))
    bits = data.index(struct.pack("<3H", 8, 8, 8))
    data[bits : bits + 6] = struct.pack("<3H", 32, 32, 32)
    assert refusal(bytes(data)).code == "pixel_format"


def swapped_profile() -> bytes:
    """Returns an RGB profile that swaps red and blue."""
    profile = bytearray(ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    red, blue = (profile.index(name) for name in (b"rXYZ", b"bXYZ"))
    profile[red : red + 4], profile[blue : blue + 4] = b"bXYZ", b"rXYZ"
    return bytes(profile)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
def test_colours_are_converted_from_their_profile(mode: str) -> None:
    picture = Image.new("RGB", (16, 16), (255, 0, 0)).convert(mode)
    square = read_image(encoded(picture, icc_profile=swapped_profile()), MAX_PIXELS)
    red, green, blue = square.getpixel((8, 8))
    assert blue > 250
    assert max(red, green) < 5


@pytest.mark.parametrize("profile", [b"nonsense", swapped_profile()[:200], bytes(5 * 2**20)])
def test_broken_profile_is_ignored(profile: bytes) -> None:
    data = encoded(Image.new("RGB", (16, 16), RED), "TIFF", icc_profile=profile)
    assert read_image(data, MAX_PIXELS).getpixel((8, 8)) == RED


def test_profile_for_other_channels_is_ignored() -> None:
    data = encoded(Image.new("L", (16, 16), 90), icc_profile=swapped_profile())
    assert read_image(data, MAX_PIXELS).getpixel((8, 8)) == (90, 90, 90)


def test_cmyk_is_read_as_rgb() -> None:
    data = encoded(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG")
    red, green, blue = read_image(data, MAX_PIXELS).getpixel((8, 8))
    assert red > 240
    assert max(green, blue) < 15


def palette_image() -> Image.Image:
    """Returns an image of red pixels, which have index 1; index 0 is dark."""
    image = Image.new("P", (16, 16), 1)
    image.putpalette([1, 2, 3, *RED])
    return image


@pytest.mark.parametrize(
    ("picture", "key"),
    [
        (Image.new("1", (16, 16), 0), 0),
        (Image.new("L", (16, 16), 5), 5),
        (palette_image(), 1),
        (palette_image(), b"\xff\0"),
        (Image.new("RGB", (16, 16), RED), RED),
    ],
)
def test_colour_key_becomes_white(picture: Image.Image, key: object) -> None:
    picture.paste(0 if picture.mode == "P" else 1, (4, 4, 8, 8))
    square = read_image(encoded(picture, transparency=key), MAX_PIXELS)
    assert square.getpixel((15, 15)) == (255, 255, 255)
    assert (square.getpixel((5, 5)) == (255, 255, 255)) == (picture.mode == "1")


@pytest.mark.parametrize(("colour", "channels"), [(0, 1), (2, 3)])
def test_colour_key_of_16_bits_becomes_white(colour: int, channels: int) -> None:
    values = np.full((16, 16, channels), 0x1234, np.uint16)
    values[4:8, 4:8] = 0x8000
    square = read_image(png16(values, colour, (b"tRNS", struct.pack(">H", 0x1234) * channels)), MAX_PIXELS)
    assert (square.getpixel((0, 0)), square.getpixel((5, 5))) == ((255, 255, 255), (128, 128, 128))


@pytest.mark.parametrize("bits", [2, 4])
def test_colour_key_of_few_greys_becomes_white(bits: int) -> None:
    rows = b"".join(b"\0" + bytes([0b01010101 if bits == 2 else 0x11]) * (16 * bits // 8) for _ in range(15))
    rows += b"\0" + bytes(16 * bits // 8)
    header = struct.pack(">2I5B", 16, 16, bits, 0, 0, 0, 0)
    parts = [(b"IHDR", header), (b"tRNS", b"\0\1"), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    chunks = (
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in parts
    )
    square = read_image(b"\x89PNG\r\n\x1a\n" + b"".join(chunks), MAX_PIXELS)
    assert (square.getpixel((0, 0)), square.getpixel((0, 15))) == ((255, 255, 255), (0, 0, 0))


@pytest.mark.parametrize("picture", [Image.new("RGBA", (16, 16), (9, 9, 9, 0)), Image.new("LA", (16, 16), (9, 0))])
def test_fully_transparent_image_is_rejected(picture: Image.Image) -> None:
    assert refusal(encoded(picture)).code == "transparent"


@pytest.mark.parametrize(
    ("size", "code", "limit"),
    [
        ((1, 1), "too_small", MIN_SIDE),
        ((7, 90), "too_small", MIN_SIDE),
        ((1, 5000), "too_small", MIN_SIDE),
        ((8, 8 * MAX_ASPECT + 1), "too_thin", MAX_ASPECT),
        ((4000, 40), "too_thin", MAX_ASPECT),
    ],
)
def test_small_and_thin_images_are_rejected_with_the_limit(size: tuple[int, int], code: str, limit: int) -> None:
    refused = refusal(encoded(Image.new("RGB", size)))
    assert refused.code == code
    assert str(limit) in refused.detail


def oriented(orientation: object, **more: object) -> bytes:
    """Returns EXIF with an Orientation and a GPS altitude below sea level, which Pillow cannot write again."""
    start = 8 + 2 + 24 + 4
    gps = struct.pack("<H2HIII", 1, 6, 10, 1, start + 18, 0) + struct.pack("<ii", -5, 1)
    tags = struct.pack("<H2HI2H", 2, 0x112, 3, 1, orientation, 0) + struct.pack("<2HIII", 0x8825, 4, 1, start, 0)
    return b"II*\0" + struct.pack("<I", 8) + tags + gps


CORNERS = {1: 0, 2: 1, 3: 2, 4: 3, 5: 0, 6: 1, 7: 2, 8: 3}
"""Corner to which each EXIF orientation moves the upper left one, counted clockwise from the upper left."""
SAVED: dict[str, Callable[[Image.Image, bytes], bytes]] = {
    "JPEG": lambda image, exif: encoded(image, "JPEG", exif=b"Exif\0\0" + exif, quality=95),
    "PNG": lambda image, exif: encoded(image, "PNG", exif=exif),
    "PNG, behind the pixels": lambda image, exif: behind(encoded(image, "PNG"), exif),
    "WEBP": lambda image, exif: encoded(image, "WEBP", exif=exif, lossless=True),
    "TIFF": lambda image, exif: encoded(image, "TIFF", tiffinfo={0x112: exif[18]}),
}


def behind(data: bytes, exif: bytes) -> bytes:
    chunk = struct.pack(">I", len(exif)) + b"eXIf" + exif + struct.pack(">I", zlib.crc32(b"eXIf" + exif))
    return data[:-12] + chunk + data[-12:]


@pytest.mark.parametrize("name", SAVED)
@pytest.mark.parametrize("orientation", CORNERS)
def test_image_is_turned_only_by_its_orientation(name: str, orientation: int) -> None:
    picture = Image.new("RGB", (32, 32), "white")
    picture.paste("black", (0, 0, 16, 16))
    square = read_image(SAVED[name](picture, oriented(orientation)), MAX_PIXELS)
    corners = [square.getpixel(place)[0] for place in ((4, 4), (28, 4), (28, 28), (4, 28))]
    assert [value < 100 for value in corners].index(True) == CORNERS[orientation]


@pytest.mark.parametrize("exif", [b"", b"II*\0", b"nonsense", oriented(77), oriented(6)[:30], b"MM\0*" + b"\xff" * 40])
def test_image_with_broken_exif_is_read(exif: bytes) -> None:
    picture = Image.new("RGB", (32, 32), RED)
    for data in (encoded(picture, "JPEG", exif=b"Exif\0\0" + exif), encoded(picture, exif=exif)):
        assert read_image(data, MAX_PIXELS).size == (32, 32)


def test_orientation_of_xmp_is_used_if_exif_has_none() -> None:
    text = PngImagePlugin.PngInfo()
    text.add_itxt("XML:com.adobe.xmp", '<x tiff:Orientation="6"/>')
    picture = Image.new("RGB", (32, 32), "white")
    picture.paste("black", (0, 0, 16, 16))
    assert read_image(encoded(picture, pnginfo=text), MAX_PIXELS).getpixel((28, 4)) == (0, 0, 0)


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF"])
def test_large_image_is_reduced_to_the_size_that_a_base_can_use(format: str) -> None:
    picture = Image.linear_gradient("L").resize((2500, 2200)).convert("RGB")
    square = read_image(encoded(picture, format), MAX_PIXELS)
    assert KEPT_SIDE <= square.width == square.height < 2 * KEPT_SIDE
    assert abs(int(square.getpixel((500, 20))[0]) - int(picture.getpixel((1250, 42))[0])) <= 4


@pytest.mark.parametrize("cut", [60, 200, -40])
def test_truncated_png_is_rejected(cut: int) -> None:
    assert refusal(encoded(Image.fromarray(noise(40, 90, 3)))[:cut]).code == "corrupt"


def test_errors_of_the_callers_budget_pass_through() -> None:
    def spend(pixels: int) -> None:
        raise LookupError(pixels)

    with pytest.raises(LookupError, match="300"):
        read_image(encoded(Image.new("RGB", (20, 15))), MAX_PIXELS, spend)


def test_decoders_that_hold_the_whole_image_have_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "_DECODED_BYTES", 20 * 20 * 4)
    assert read_image(encoded(Image.new("RGB", (20, 20)), "BMP"), MAX_PIXELS).size == (20, 20)
    for format in ("WEBP", "TIFF"):
        assert refusal(encoded(Image.new("RGB", (20, 20)), format)).code == "too_many_pixels"
