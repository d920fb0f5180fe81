"""From images to latents: crops, mirrored copies, held-out images."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from core.ml.tuning.latents import Latents, concatenate, encode_batch, encode_images, image_grid, to_image, to_pixels


def latents_of(labels: list[int]) -> Latents:
    """Returns latents that contain each image's index, and its negative in the mirrored copies."""
    index = torch.arange(1.0, len(labels) + 1).view(1, -1, 1, 1, 1).expand(1, -1, 4, 2, 2)
    mean = torch.cat([index, -index])
    return Latents(mean, mean * 0.1, torch.tensor(labels))


def split(labels: list[int], fraction: float, seed: int = 0) -> tuple[Latents, Latents]:
    return latents_of(labels).split(fraction, torch.Generator().manual_seed(seed))


def indices(latents: Latents) -> list[int]:
    return [int(value) for value in latents.mean[0, :, 0, 0, 0].tolist()]


def test_same_fraction_of_each_class_is_held_out() -> None:
    labels = [0] * 20 + [1] * 40 + [2] * 10
    training, held_out = split(labels, 0.1)
    assert held_out.labels.bincount().tolist() == [2, 4, 1]
    assert sorted(indices(training) + indices(held_out)) == list(range(1, 71))
    for part in (training, held_out):
        assert part.labels.tolist() == [labels[index - 1] for index in indices(part)]
        assert torch.equal(part.mean[1], -part.mean[0])
        assert torch.equal(part.deviation, part.mean * 0.1)


def test_no_image_of_a_small_class_is_held_out() -> None:
    training, held_out = split([0] * 20 + [1] * 3, 0.1)
    assert held_out.labels.tolist() == [0, 0]
    assert training.labels.bincount().tolist() == [18, 3]


def test_one_image_of_the_largest_class_is_held_out_when_all_are_small() -> None:
    training, held_out = split([0, 1, 1, 2], 0.1)
    assert held_out.labels.tolist() == [1]
    assert len(training) == 3


@pytest.mark.parametrize(("labels", "fraction"), [([0] * 20, 0.0), ([0], 0.1), ([0, 1, 2], 0.1)])
def test_nothing_is_held_out_if_not_requested_or_if_it_would_empty_a_class(labels: list[int], fraction: float) -> None:
    training, held_out = split(labels, fraction)
    assert (len(training), len(held_out)) == (len(labels), 0)


def test_held_out_images_depend_on_the_seed() -> None:
    labels = [0] * 50 + [1] * 50
    assert indices(split(labels, 0.1)[1]) == indices(split(labels, 0.1)[1])
    assert indices(split(labels, 0.1)[1]) != indices(split(labels, 0.1, seed=1)[1])


def test_images_are_encoded_in_batches_with_mirrored_copies() -> None:
    generator = np.random.default_rng(0)
    images = [
        (label, Image.fromarray(generator.integers(0, 256, (8, 8, 3), dtype=np.uint8))) for label in [3, 1, 2, 0, 1]
    ]
    taken: list[int] = []

    def encode(pixels: Tensor) -> tuple[Tensor, Tensor]:
        taken.append(len(pixels))
        return pixels * 2, pixels.abs()

    parts = list(encode_images(iter(images), encode, 8, batch_size=2))
    assert taken == [2, 2, 2, 2, 1, 1], "each batch once as it is and once mirrored"
    latents = concatenate(parts)
    assert latents.labels.tolist() == [3, 1, 2, 0, 1]
    pixels = torch.stack([to_pixels(image, 8) for _, image in images])
    assert torch.equal(latents.mean, torch.stack([pixels * 2, pixels.flip(-1) * 2]))
    assert torch.equal(latents.deviation, torch.stack([pixels.abs(), pixels.flip(-1).abs()]))


@pytest.mark.parametrize("fits", [1, 3, 4])
def test_batch_that_does_not_fit_is_encoded_in_halves(fits: int) -> None:
    def encode(pixels: Tensor) -> tuple[Tensor, Tensor]:
        if len(pixels) > fits:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return pixels * 2, pixels.abs()

    batch = torch.arange(7), torch.rand(7, 3, 4, 4)
    halves, whole = encode_batch(batch, encode), encode_batch(batch, lambda pixels: (pixels * 2, pixels.abs()))
    assert torch.equal(halves.mean, whole.mean)
    assert torch.equal(halves.deviation, whole.deviation)
    assert torch.equal(halves.labels, whole.labels)


def test_single_image_that_does_not_fit_raises_out_of_memory() -> None:
    sizes = []

    def encode(pixels: Tensor) -> tuple[Tensor, Tensor]:
        sizes.append(len(pixels))
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        encode_batch((torch.arange(4), torch.rand(4, 3, 4, 4)), encode)
    assert sizes == [4, 2, 1]


def test_pixels_and_images_convert_into_each_other() -> None:
    array = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, axis=2)
    pixels = to_pixels(Image.fromarray(array), 16)
    assert (pixels.shape, pixels.min().item(), pixels.max().item()) == ((3, 16, 16), -1, 1)
    np.testing.assert_array_equal(np.asarray(to_image(pixels)), array)
    np.testing.assert_array_equal(np.asarray(to_image(3 * torch.ones(3, 1, 1))), np.full((1, 1, 3), 255))


@pytest.mark.parametrize("size", [(30, 10), (10, 30)])
@pytest.mark.parametrize("target", [2, 5, 10, 40])
def test_crop_keeps_the_middle(size: tuple[int, int], target: int) -> None:
    """Crops an image that is red in the middle third and blue on both sides."""
    image = Image.new("RGB", size, "blue")
    left, top = (size[0] - 10) // 2, (size[1] - 10) // 2
    image.paste("red", (left, top, left + 10, top + 10))
    red = torch.tensor([1.0, -1.0, -1.0]).view(3, 1, 1).expand(3, target, target)
    torch.testing.assert_close(to_pixels(image, target), red)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "L", "CMYK", "1"])
def test_every_mode_becomes_rgb_and_transparent_pixels_white(mode: str) -> None:
    image = Image.new("RGBA", (4, 4), (255, 255, 255, 0)).convert(mode)
    torch.testing.assert_close(to_pixels(image, 4), torch.ones(3, 4, 4), rtol=0, atol=0.01)


def test_half_transparent_black_becomes_grey() -> None:
    pixels = to_pixels(Image.new("RGBA", (4, 4), (0, 0, 0, 128)), 4)
    torch.testing.assert_close(pixels, torch.zeros(3, 4, 4), rtol=0, atol=0.02)


def test_grid_shows_images_row_by_row() -> None:
    colours = ["red", "green", "blue", "black", "yellow"]
    grid = image_grid([Image.new("RGB", (4, 4), colour) for colour in colours], columns=3)
    assert grid.size == (3 * 6 + 2, 2 * 6 + 2)
    centers = [(2 + 6 * column + 1, 2 + 6 * row + 1) for row in range(2) for column in range(3)]
    expected = [Image.new("RGB", (1, 1), colour).getpixel((0, 0)) for colour in [*colours, "white"]]
    assert [grid.getpixel(place) for place in centers] == expected
