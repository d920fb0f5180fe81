"""Warnings about images that usually spoil a fine-tune, and about classes of unusual sizes."""

import io
import time

import numpy as np
import pytest
from PIL import Image, ImageCms

from core.service.datasets import checks
from core.service.datasets.archive import Limits, validate
from core.service.datasets.images import read_picture
from core.service.datasets.report import Report
from tests.core.service.zips import zipped

LIMITS = Limits(members=50, image_bytes=2**20, inflated_bytes=2**23, pixels=10**6, classes=5)
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
LAB = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()


def scene(seed: int, size: tuple[int, int] = (128, 128)) -> Image.Image:
    """Returns an image of large random patches of colour, different for each seed."""
    patches = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(patches).resize(size, Image.Resampling.BICUBIC)


def encoded(image: Image.Image, format: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def report_of(files: dict[str, bytes]) -> Report:
    return validate(zipped(files), LIMITS)


def dataset_warnings(counts: dict[str, int]) -> list[str]:
    seeds = iter(range(1000))
    files = {f"{name}/{k}.png": encoded(scene(next(seeds))) for name, count in counts.items() for k in range(count)}
    return [warning.code for warning in report_of(files).warnings]


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (encoded(scene(1)), None),
        (encoded(scene(1, (63, 200)).crop((0, 0, 63, 100))), "tiny"),
        (encoded(scene(1, (64, 64))), None),
        (encoded(scene(1, (192, 64))), "extreme_aspect"),
        (encoded(scene(1, (191, 64))), None),
        (encoded(Image.new("RGB", (100, 100), "red")), "blank"),
        (encoded(scene(1).convert("CMYK"), "JPEG"), "colours_converted"),
        (encoded(Image.fromarray(np.arange(10_000, dtype=np.uint16).reshape(100, 100))), "colours_converted"),
        (encoded(scene(1), icc_profile=SRGB), None),
        (encoded(scene(1), icc_profile=LAB), None),
        (encoded(scene(1), icc_profile=b"broken"), None),
    ],
    ids=[
        "good",
        "tiny",
        "small",
        "thin",
        "not thin",
        "blank",
        "cmyk",
        "deep",
        "srgb",
        "unfit profile",
        "broken profile",
    ],
)
def test_unusual_image_has_a_warning(data: bytes, code: str | None) -> None:
    warnings = checks.of_image(read_picture(data, 10**6))
    assert list(warnings) == ([] if code is None else [code])
    assert all(warning["detail"] and warning["image"] is None for warning in warnings.values())


def test_size_is_that_of_the_upright_image() -> None:
    turned = Image.Exif()
    turned[0x0112] = 6
    for format in ("JPEG", "PNG", "TIFF"):
        picture = read_picture(encoded(scene(1, (90, 70)), format, exif=turned), 10**6)
        assert (format, picture.width, picture.height) == (format, 70, 90)


def test_images_with_equal_hashes_are_compared_quickly() -> None:
    """Images whose hashes are all equal took 27 seconds for 3,000, in which no other thread could run."""
    colours = np.random.default_rng(0).integers(0, 256, (3000, 48), np.uint8)
    looks = [(bytes(8) + colour.tobytes()).hex() for colour in colours]
    started = time.process_time()
    assert checks._near_duplicates([*looks, looks[7]]) == {3000: 7}
    assert time.process_time() - started < 10


def test_near_duplicates_name_the_first_image_they_look_like() -> None:
    first = scene(1)
    files = {
        "cat/1.png": encoded(first),
        "cat/2.png": encoded(scene(2)),
        "cat/3.jpg": encoded(first.resize((90, 90)), "JPEG", quality=60),
        "dog/4.webp": encoded(first, "WEBP", quality=50),
        "dog/5.png": encoded(Image.fromarray(255 - np.asarray(first))),
        "dog/6.png": encoded(Image.merge("RGB", first.split()[::-1])),
    }
    warnings = [member.warnings for member in report_of(files).members]
    assert [list(each) for each in warnings] == [[], [], ["near_duplicate"], ["near_duplicate"], [], []]
    assert [each["near_duplicate"]["image"] for each in warnings[2:4]] == [1, 1]
    assert "cat/1.png" in warnings[2]["near_duplicate"]["detail"]


def test_classes_with_few_images_or_of_very_different_sizes_are_warned_about() -> None:
    assert dataset_warnings({"cat": 5, "dog": 5}) == []
    assert dataset_warnings({"cat": 5, "dog": 4}) == ["few_images"]
    assert dataset_warnings({"cat": 30, "dog": 3}) == ["few_images", "unbalanced_classes"]
    assert dataset_warnings({"cat": 29, "dog": 3}) == ["few_images"]
