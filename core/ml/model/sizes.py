"""Batch sizes in use: smaller ones after memory ran out, larger ones again after a while."""

from collections.abc import Sequence

GROWTH_FORWARDS = 128
MAX_GROWTH_FORWARDS = 64 * GROWTH_FORWARDS


class BatchSizes:
    """Sizes to which batches are padded, ascending. Those above the limit are out of use.

    The limit rises by one size after a number of forwards that fitted. That number doubles each time memory runs out,
    so that a device with lastingly less memory is tried seldom, and falls back once the largest size has proved itself.
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
        """Counts a forward that fitted into memory."""
        self._fitted += 1
        if self._fitted < self._growth_forwards:
            return
        self._fitted = 0
        if self._in_use < len(self.all):
            self._in_use += 1
        else:
            self._growth_forwards = GROWTH_FORWARDS

    def shrink_to(self, count: int) -> None:
        """Leaves the `count` smallest sizes in use."""
        self._in_use = count
        self._fitted = 0
        self._growth_forwards = min(2 * self._growth_forwards, MAX_GROWTH_FORWARDS)
