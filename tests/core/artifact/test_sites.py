"""Sites on DiT-XL/2 with Food101's 101 classes; `tests/benchmarks/test_parameters.py` has the counts of the paper."""

from dataclasses import replace

import pytest

from core.artifact.base import BaseConfig
from core.artifact.sites import PRESETS, Sites, base_shapes, count, trainable_shapes

XL = BaseConfig()
FOOD = 101


def test_base_has_as_many_parameters_as_the_released_model() -> None:
    positions = XL.tokens * XL.hidden_size
    assert count(base_shapes(XL)) + positions == 675_129_632


@pytest.mark.parametrize(
    ("site", "added"),
    [
        ("branches", 28 * 2304),
        ("qkv", 28 * 3456),
        ("projection", 28 * 1152),
        ("patch", 1152),
        ("time", 1152),
        ("final", 32),
    ],
)
def test_each_site_of_table_4c_adds_its_own_parameters(site: str, added: int) -> None:
    nothing = Sites(
        branches=False, qkv=False, projection=False, final=False, affine_norm=False, first_block=1, last_block=28
    )
    bitfit = count(trainable_shapes(XL, "bitfit", nothing, FOOD))
    assert count(trainable_shapes(XL, "difffit", nothing, FOOD)) == bitfit
    assert count(trainable_shapes(XL, "difffit", replace(nothing, **{site: True}), FOOD)) == bitfit + added


@pytest.mark.parametrize(("depth", "blocks"), [(28, 14), (12, 6), (5, 3), (1, 1)])
def test_default_block_range_is_the_first_half(depth: int, blocks: int) -> None:
    assert Sites().factor_blocks(depth) == range(blocks)


@pytest.mark.parametrize(("first", "last"), [(0, 3), (4, 3), (1, 29), (29, None)])
def test_block_range_outside_the_depth_is_rejected(first: int, last: int | None) -> None:
    with pytest.raises(ValueError, match="not within the depth of 28"):
        trainable_shapes(XL, "difffit", Sites(first_block=first, last_block=last), FOOD)


@pytest.mark.parametrize("preset", PRESETS)
def test_sites_survive_json(preset: str) -> None:
    assert Sites.from_json(PRESETS[preset].to_json()) == PRESETS[preset]
