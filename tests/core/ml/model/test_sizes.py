"""Batch sizes shrink when memory runs out, and grow again."""

from core.ml.model.sizes import GROWTH_FORWARDS, MAX_GROWTH_FORWARDS, BatchSizes


def fit(sizes: BatchSizes, count: int) -> tuple[int, ...]:
    for _ in range(count):
        sizes.count_fit()
    return sizes.in_use


def test_sizes_grow_again_one_by_one() -> None:
    sizes = BatchSizes([24, 8, 16])
    assert fit(sizes, 10 * GROWTH_FORWARDS) == (8, 16, 24)
    sizes.shrink_to(1)
    assert fit(sizes, 2 * GROWTH_FORWARDS - 1) == (8,)
    assert fit(sizes, 1) == (8, 16)
    assert fit(sizes, 2 * GROWTH_FORWARDS - 1) == (8, 16)
    assert fit(sizes, 1) == (8, 16, 24)


def test_sizes_that_do_not_fit_are_tried_less_often_each_time() -> None:
    sizes = BatchSizes([8, 16])
    waits = []
    for _ in range(9):
        sizes.shrink_to(1)
        waits.append(0)
        while sizes.in_use == (8,):
            sizes.count_fit()
            waits[-1] += 1
    assert waits[:4] == [2 * GROWTH_FORWARDS, 4 * GROWTH_FORWARDS, 8 * GROWTH_FORWARDS, 16 * GROWTH_FORWARDS]
    assert waits[-1] == MAX_GROWTH_FORWARDS


def test_largest_size_that_fits_for_long_enough_resets_the_waits() -> None:
    sizes = BatchSizes([8, 16])
    sizes.shrink_to(1)
    fit(sizes, 2 * GROWTH_FORWARDS)
    fit(sizes, 2 * GROWTH_FORWARDS)
    sizes.shrink_to(1)
    assert fit(sizes, 2 * GROWTH_FORWARDS) == (8, 16)
