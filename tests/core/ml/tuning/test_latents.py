"""From pictures to latents: crops, mirrors, the part that is held out."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from core.ml.tuning.latents import Latents, concatenate, encode_batch, encode_images, image_grid, to_image, to_pixels


def latents_of(labels: list[int]) -> Latents:
    """Each image's latents hold its index, mirrored ones its negative."""
    index = torch.arange(1.0, len(labels) + 1).view(1, -1, 1, 1, 1).expand(1, -1, 4, 2, 2)
    mean = torch.cat([index, -index])
    return Latents(mean, mean * 0.1, torch.tensor(labels))


def split(labels: list[int], fraction: float, seed: int = 0) -> tuple[Latents, Latents]:
    return latents_of(labels).split(fraction, torch.Generator().manual_seed(seed))


def indices(latents: Latents) -> list[int]:
    return [int(value) for value in latents.mean[0, :, 0, 0, 0].tolist()]


def test_each_class_gives_up_its_share() -> None:
    labels = [0] * 20 + [1] * 40 + [2] * 10
    training, held_out = split(labels, 0.1)
    assert held_out.labels.bincount().tolist() == [2, 4, 1]
    assert sorted(indices(training) + indices(held_out)) == list(range(1, 71))
    for part in (training, held_out):
        assert part.labels.tolist() == [labels[index - 1] for index in indices(part)]
        assert torch.equal(part.mean[1], -part.mean[0])
        assert torch.equal(part.deviation, part.mean * 0.1)


def test_a_small_class_keeps_all_of_its_images() -> None:
    training, held_out = split([0] * 20 + [1] * 3, 0.1)
    assert held_out.labels.tolist() == [0, 0]
    assert training.labels.bincount().tolist() == [18, 3]


def test_one_image_of_the_largest_class_is_held_out_when_all_are_small() -> None:
    training, held_out = split([0, 1, 1, 2], 0.1)
    assert held_out.labels.tolist() == [1]
    assert len(training) == 3


@pytest.mark.parametrize(("labels", "fraction"), [([0] * 20, 0.0), ([0], 0.1), ([0, 1, 2], 0.1)])
def test_nothing_is_held_out_when_that_is_asked_for_or_would_empty_a_class(labels: list[int], fraction: float) -> None:
    training, held_out = split(labels, fraction)
    assert (len(training), len(held_out)) == (len(labels), 0)


def test_the_choice_belongs_to_the_seed() -> None:
    labels = [0] * 50 + [1] * 50
    assert indices(split(labels, 0.1)[1]) == indices(split(labels, 0.1)[1])
    assert indices(split(labels, 0.1)[1]) != indices(split(labels, 0.1, seed=1)[1])


def test_images_are_encoded_in_batches_with_their_mirrors() -> None:
    generator = np.random.default_rng(0)
    images = [
        (label, Image.fromarray(generator.integers(0, 256, (8, 8, 3), dtype=np.uint8))) for label in [3, 1, 2, 0, 1]
    ]
    taken: list[int] = []

    def encode(pixels: Tensor) -> tuple[Tensor, Tensor]:
        taken.append(len(pixels))
        return pixels * 2, pixels.abs()

    parts = list(encode_images(iter(images), encode, 8, batch_size=2))
    assert taken == [2, 2, 2, 2, 1, 1], "each batch once as drawn and once mirrored"
    latents = concatenate(parts)
    assert latents.labels.tolist() == [3, 1, 2, 0, 1]
    pixels = torch.stack([to_pixels(image, 8) for _, image in images])
    assert torch.equal(latents.mean, torch.stack([pixels * 2, pixels.flip(-1) * 2]))
    assert torch.equal(latents.deviation, torch.stack([pixels.abs(), pixels.flip(-1).abs()]))


@pytest.mark.parametrize("fits", [1, 3, 4])
def test_a_batch_that_does_not_fit_is_encoded_in_halves(fits: int) -> None:
    def encode(pixels: Tensor) -> tuple[Tensor, Tensor]:
        if len(pixels) > fits:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return pixels * 2, pixels.abs()

    batch = torch.arange(7), torch.rand(7, 3, 4, 4)
    found, whole = (encode_batch(batch, one) for one in (encode, lambda pixels: (pixels * 2, pixels.abs())))
    assert torch.equal(found.mean, whole.mean)
    assert torch.equal(found.deviation, whole.deviation)
    assert torch.equal(found.labels, whole.labels)


def test_an_image_that_does_not_fit_alone_is_no_endless_search() -> None:
    tries = []

    def encode(pixels: Tensor) -> tuple[Tensor, Tensor]:
        tries.append(len(pixels))
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        encode_batch((torch.arange(4), torch.rand(4, 3, 4, 4)), encode)
    assert tries == [4, 2, 1]


def test_pixels_and_images_are_each_others_way_back() -> None:
    array = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, axis=2)
    pixels = to_pixels(Image.fromarray(array), 16)
    assert (pixels.shape, pixels.min().item(), pixels.max().item()) == ((3, 16, 16), -1, 1)
    np.testing.assert_array_equal(np.asarray(to_image(pixels)), array)
    np.testing.assert_array_equal(np.asarray(to_image(3 * torch.ones(3, 1, 1))), np.full((1, 1, 3), 255))


@pytest.mark.parametrize("size", [(30, 10), (10, 30)])
@pytest.mark.parametrize("target", [2, 5, 10, 40])
def test_the_middle_is_kept(size: tuple[int, int], target: int) -> None:
    """Red in the middle third, blue beside it."""
    image = Image.new("RGB", size, "blue")
    left, top = (size[0] - 10) // 2, (size[1] - 10) // 2
    image.paste("red", (left, top, left + 10, top + 10))
    red = torch.tensor([1.0, -1.0, -1.0]).view(3, 1, 1).expand(3, target, target)
    torch.testing.assert_close(to_pixels(image, target), red)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "L", "CMYK", "1"])
def test_every_mode_becomes_colour_and_what_is_transparent_white(mode: str) -> None:
    image = Image.new("RGBA", (4, 4), (255, 255, 255, 0)).convert(mode)
    torch.testing.assert_close(to_pixels(image, 4), torch.ones(3, 4, 4), rtol=0, atol=0.01)


def test_a_half_transparent_black_is_grey() -> None:
    pixels = to_pixels(Image.new("RGBA", (4, 4), (0, 0, 0, 128)), 4)
    torch.testing.assert_close(pixels, torch.zeros(3, 4, 4), rtol=0, atol=0.02)


def test_a_grid_lays_images_row_by_row() -> None:
    colours = ["red", "green", "blue", "black", "yellow"]
    grid = image_grid([Image.new("RGB", (4, 4), colour) for colour in colours], columns=3)
    assert grid.size == (3 * 6 + 2, 2 * 6 + 2)
    centers = [(2 + 6 * column + 1, 2 + 6 * row + 1) for row in range(2) for column in range(3)]
    expected = [Image.new("RGB", (1, 1), colour).getpixel((0, 0)) for colour in [*colours, "white"]]
    assert [grid.getpixel(place) for place in centers] == expected
