"""Plain operations on images that training, examples and measurements share. Pillow alone, no torch."""

from PIL import Image

Box = tuple[int, int, int, int]
"""Left, top, right, bottom."""


def on_white(image: Image.Image) -> Image.Image:
    """Returns an image of any 8-bit mode as RGB, its transparency laid on white."""
    if image.mode == "RGB":
        return image
    rgba = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")


def center_square(size: tuple[int, int]) -> Box:
    """Returns the largest centered square of an image of this width and height."""
    side = min(size)
    left, top = (size[0] - side) // 2, (size[1] - side) // 2
    return left, top, left + side, top + side


def center_crop(image: Image.Image, size: int) -> Image.Image:
    """Resizes the largest centered square to `size` pixels per side, by area averaging when it at least halves."""
    square = image.crop(center_square(image.size))  # `resize` with a box would look beyond it
    filtering = Image.Resampling.BOX if square.width >= 2 * size else Image.Resampling.BICUBIC
    return square.resize((size, size), filtering)
