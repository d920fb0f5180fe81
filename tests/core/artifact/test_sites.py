"""The counts of the DiffFit paper (arXiv 2304.06648) on DiT-XL/2 with Food101's 101 classes, exactly."""

from dataclasses import replace

import pytest

from core.artifact.base import BaseConfig
from core.artifact.sites import PRESETS, Method, Sites, base_shapes, count, trainable_shapes

XL = BaseConfig()
FOOD = 101


@pytest.mark.parametrize(
    ("method", "preset", "expected"),
    [
        ("full", "paper", 673_799_072),
        ("bitfit", "paper", 607_136),
        ("difffit", "literal", 703_936),
        ("difffit", "paper", 835_264),
    ],
)
def test_counts_of_table_1(method: Method, preset: str, expected: int) -> None:
    assert count(trainable_shapes(XL, method, PRESETS[preset], FOOD)) == expected


def test_the_base_has_the_released_models_parameters() -> None:
    positions = XL.tokens * XL.hidden_size
    assert count(base_shapes(XL)) + positions == 675_129_632


@pytest.mark.parametrize(
    ("first", "last", "thousands"),
    [
        *[(1, last, thousands) for last, thousands in [(3, 745), (7, 754), (11, 763), (14, 770)]],
        *[(1, last, thousands) for last, thousands in [(18, 779), (21, 786), (25, 796), (28, 803)]],
        *[(first, 28, thousands) for first, thousands in [(25, 747), (22, 754), (18, 763), (11, 779)]],
        *[(first, 28, thousands) for first, thousands in [(8, 786), (4, 796), (1, 803)]],
    ],
)
def test_counts_of_tables_4a_and_4b(first: int, last: int, thousands: int) -> None:
    """Branch factors alone: 738,496 and 2,304 for each block, which the paper truncates to thousands."""
    sites = Sites(qkv=False, projection=False, first_block=first, last_block=last)
    found = count(trainable_shapes(XL, "difffit", sites, FOOD))
    assert found == 738_496 + 2304 * (last - first + 1)
    assert found // 1000 == thousands


@pytest.mark.parametrize(("first", "thousands"), [(15, 770), (14, 773)])
def test_28_to_14_of_table_4a_fits_fourteen_blocks(first: int, thousands: int) -> None:
    """The paper has 0.770 M there."""
    sites = Sites(qkv=False, projection=False, first_block=first, last_block=28)
    assert count(trainable_shapes(XL, "difffit", sites, FOOD)) // 1000 == thousands


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
def test_each_site_of_table_4c_adds_its_own(site: str, added: int) -> None:
    nothing = Sites(
        branches=False, qkv=False, projection=False, final=False, affine_norm=False, first_block=1, last_block=28
    )
    bitfit = count(trainable_shapes(XL, "bitfit", nothing, FOOD))
    assert count(trainable_shapes(XL, "difffit", nothing, FOOD)) == bitfit
    assert count(trainable_shapes(XL, "difffit", replace(nothing, **{site: True}), FOOD)) == bitfit + added


@pytest.mark.parametrize(("depth", "blocks"), [(28, 14), (12, 6), (5, 3), (1, 1)])
def test_the_default_range_is_the_first_half(depth: int, blocks: int) -> None:
    assert Sites().factor_blocks(depth) == range(blocks)


@pytest.mark.parametrize(("first", "last"), [(0, 3), (4, 3), (1, 29), (29, None)])
def test_a_block_range_must_lie_within_the_depth(first: int, last: int | None) -> None:
    with pytest.raises(ValueError, match="not within the depth of 28"):
        trainable_shapes(XL, "difffit", Sites(first_block=first, last_block=last), FOOD)


@pytest.mark.parametrize("preset", PRESETS)
def test_sites_survive_json(preset: str) -> None:
    assert Sites.from_json(PRESETS[preset].to_json()) == PRESETS[preset]
