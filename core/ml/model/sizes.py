"""Batch sizes in use: only smaller ones after memory ran out, larger ones again after a while."""

from collections.abc import Sequence

GROWTH_FORWARDS = 128
MAX_GROWTH_FORWARDS = 64 * GROWTH_FORWARDS


class BatchSizes:
    """Allowed batch sizes, ascending. After memory ran out, sizes above a limit are not used.

    The limit rises by one size after a number of forwards that fitted into memory. This number doubles each time memory
    runs out, so that a device with permanently less memory rarely tries larger sizes. It falls back to its first value
    after as many forwards at the largest size.
    """

    def __init__(self, sizes: Sequence[int]) -> None:
        self.all = tuple(sorted(sizes))
        self._in_use = len(self.all)
        self._fitted = 0
        self._growth_forwards = GROWTH_FORWARDS

    @property
    def in_use(self) -> tuple[int, ...]:
        return self.all[: self._in_use]

    def count_fit(self) -> None:
        """Counts a forward that fitted into memory, and raises the limit by one size after enough of them."""
        self._fitted += 1
        if self._fitted < self._growth_forwards:
            return
        self._fitted = 0
        if self._in_use < len(self.all):
            self._in_use += 1
        else:
            self._growth_forwards = GROWTH_FORWARDS

    def shrink_to(self, count: int) -> None:
        """Keeps only the `count` smallest sizes in use, after memory ran out."""
        self._in_use = count
        self._fitted = 0
        self._growth_forwards = min(2 * self._growth_forwards, MAX_GROWTH_FORWARDS)
