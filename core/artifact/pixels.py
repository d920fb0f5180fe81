"""Plain image operations that training, examples and measurements share. They need only Pillow, not torch."""

from PIL import Image

Box = tuple[int, int, int, int]
"""Pixel coordinates of a rectangle in an image: left, top, right, bottom."""


def on_white(image: Image.Image) -> Image.Image:
    """Converts an image of any 8-bit mode to RGB, with transparent parts composited on white."""
    if image.mode == "RGB":
        return image
    rgba = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")


def center_square(size: tuple[int, int]) -> Box:
    """Returns the largest centered square of an image whose width and height are `size`."""
    side = min(size)
    left, top = (size[0] - side) // 2, (size[1] - side) // 2
    return left, top, left + side, top + side


def center_crop(image: Image.Image, size: int) -> Image.Image:
    """Crops the largest centered square of an image and resizes it to `size` pixels per side. Averages areas if the
    side shrinks to half or less; otherwise interpolates bicubically."""
    square = image.crop(center_square(image.size))  # `resize` with a box would also read pixels outside the box
    filtering = Image.Resampling.BOX if square.width >= 2 * size else Image.Resampling.BICUBIC
    return square.resize((size, size), filtering)
