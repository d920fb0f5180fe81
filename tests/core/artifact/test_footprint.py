"""Memory and work per training image, estimated from the base's shape."""

import pytest

from core.artifact.base import BaseConfig
from core.artifact.footprint import Footprint

XL = BaseConfig()
MINI = BaseConfig(input_size=16, hidden_size=192, depth=8, num_heads=6)


def test_estimate_for_dit_xl_covers_the_measured_memory() -> None:
    """Compares with measurements on an H200, 32 images in bf16: the peak was 7.5 GiB for a DiffFit step and 21.8 GiB
    for a full one, weights included. A count of operations gave 15.2 TFLOP."""
    difffit, full = (Footprint.of(XL, method, 1, "cuda") for method in ("difffit", "full"))
    weights = 675_000_000
    measured = 7.5 * 2**30 - 2 * weights
    assert measured <= 32 * difffit.step_bytes <= 1.35 * measured
    trained = 21.8 * 2**30 - (2 + 4 + 4 + 8 + 4) * weights  # bf16 and fp32 weights, gradient, AdamW, average
    assert trained <= 32 * full.step_bytes <= 2 * trained
    assert 32 * difffit.operations == pytest.approx(15.2e12, rel=0.1)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_four_times_the_tokens_need_four_times_the_memory_and_more_operations(device: str) -> None:
    once, twice = (Footprint.of(MINI, "difffit", scale, device) for scale in (1, 2))
    assert twice.step_bytes == 4 * once.step_bytes
    assert twice.batch_bytes == 4 * once.batch_bytes
    assert twice.operations > 4 * once.operations


def test_images_per_forward_are_limited_by_time_and_memory() -> None:
    footprint = Footprint.of(MINI, "difffit", 1, "cpu")
    by_time = footprint.images_at_once(1024, "cpu", None)
    assert 8 <= by_time <= 32, "about 0.3 s of a core that computes 50 GFLOP/s"
    assert footprint.images_at_once(3, "cpu", None) == 3
    assert footprint.images_at_once(1024, "cuda", None) == 1024
    for images in (1, 5):
        limit = footprint.total_bytes(1024, images)
        assert footprint.images_at_once(1024, "cpu", limit) == images
        assert footprint.images_at_once(1024, "cpu", limit - 1) == images - 1


def test_single_image_may_take_longer_than_a_slice() -> None:
    assert Footprint.of(XL, "difffit", 2, "cpu").images_at_once(32, "cpu", None) == 1


def test_no_image_passes_if_the_batch_exceeds_the_memory() -> None:
    assert Footprint.of(MINI, "difffit", 1, "cpu").images_at_once(1024, "cpu", 1000) == 0
