"""Popularity of domains: few domains are requested often, most of them rarely."""

import random
from itertools import accumulate


class Zipf:
    """Distribution over the domains 0..count-1: domain k has a probability proportional to 1 / (k + 1)."""

    def __init__(self, count: int, seed: int = 0) -> None:
        self.count = count
        self._weights = list(accumulate(1 / (rank + 1) for rank in range(count)))
        self._random = random.Random(seed)

    def draw(self, size: int) -> list[int]:
        return self._random.choices(range(self.count), cum_weights=self._weights, k=size)
