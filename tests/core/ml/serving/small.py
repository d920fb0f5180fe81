"""A small engine for tests, and requests to it."""

from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor

from core.artifact.sampling import SamplingSettings
from core.ml.model.autoencoder import Autoencoder
from core.ml.model.bank import AdapterBank, FoldedAdapter
from core.ml.serving.batches import Computation, Graphs, Outcome
from core.ml.serving.cache import AdapterCache
from core.ml.serving.engine import Engine
from core.ml.serving.forwards import buckets_for
from core.ml.serving.request import Drawn, ImageRequest, Row
from core.ml.serving.runner import Runner
from tests.core.ml.model.small import random_dit, random_tensors

SLOTS = 16


class StandInGraphs:
    """Stand-in for CUDA graphs, which this machine lacks: a replay computes again from the fixed buffers into the
    captured outcome; capturing itself gives no usable values."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        """Batch rows of each capture."""
        self.replays = self.resets = 0

    @property
    def captures(self) -> int:
        return len(self.sizes)

    def capture(self, compute: Computation) -> Computation:
        outcome = Outcome(*(torch.full_like(tensor, torch.nan) for tensor in compute()))
        self.sizes.append(len(outcome.latents))

        def replay() -> Outcome:
            self.replays += 1
            for fixed, computed in zip(outcome, compute(), strict=True):
                fixed.copy_(computed)
            return outcome

        return replay

    def reset(self) -> None:
        self.resets += 1


def engine_of(
    autoencoder: Autoencoder,
    max_rows: int = 16,
    exact: bool = False,
    graphs: Graphs | None = None,
    on_death: Callable[[BaseException], None] = lambda _: None,
) -> Engine:
    bank = AdapterBank(random_dit(), SLOTS)
    runner = Runner(bank, autoencoder, buckets_for(bank.device, max_rows, exact=exact), graphs=graphs)
    cache = AdapterCache(bank, host_bytes=2**30)
    return Engine(runner, cache, max_rows=max_rows, max_waiting=60, training_share=0.2, on_death=on_death)


def tensors(seed: int) -> dict[str, Tensor]:
    return random_tensors(random_dit(), "paper", seed=seed)


def draw(engine: Engine, request: ImageRequest, **listeners: Any) -> "Future[Drawn]":
    return engine.submit(request, lambda: tensors(int((request.adapter or "-0").split("-")[1])), **listeners)


def result(engine: Engine, request: ImageRequest) -> Drawn:
    return draw(engine, request).result(60)


def request(id: str, **changes: Any) -> ImageRequest:
    """Returns a request with changed fields or sampling settings."""
    sampling: dict[str, Any] = {"steps": 4, "guidance_scale": 3.0}
    sampling |= {field.name: changes.pop(field.name) for field in fields(SamplingSettings) if field.name in changes}
    values = {"tenant": "tenant", "adapter": "adapter-0", "class_id": 1, "seeds": (5, 6)} | changes
    return ImageRequest(id=id, sampling=SamplingSettings(**sampling), **values)


MIX: list[dict[str, Any]] = [
    {"guidance_scale": 1.0},
    {"sampler": "ddpm"},
    {"eta": 0.7, "guidance_scale": 1.0},
    {"sampler": "dpmpp_2m", "guidance_interval": (200, 800)},
    {"guidance_scale": 6.0, "steps": 5},
    {"scale": 2, "sampler": "ddpm"},
]
"""Settings of images that share steps. They take 7 or 8 batch rows of the base's size, and 2 of twice the size."""


class Stepping:
    """Batch rows of a mix on a separate runner."""

    def __init__(self, runner: Runner, adapters: Sequence[FoldedAdapter | None], mix: Sequence[dict[str, Any]] = MIX):
        self.runner = runner
        self.rows = [Row(request(str(n), seeds=(n,), **settings), 0) for n, settings in enumerate(mix)]
        for index, row in enumerate(self.rows):
            runner.start(row, adapters[index % len(adapters)])

    def step(self) -> list[Row]:
        rows = [row for row in self.rows if not row.finished]
        self.runner.step(rows)
        for row in rows:
            row.position += 1
        self.runner.wait()
        return rows

    def latents(self) -> list[Tensor]:
        """Steps until every batch row is finished, and returns the final latents."""
        while self.step():
            pass
        return self.current()

    def current(self) -> list[Tensor]:
        return [self.runner.latent(row) for row in self.rows] + [self.runner.x0(row) for row in self.rows]


def assert_equal(actual: Sequence[Tensor], expected: Sequence[Tensor]) -> None:
    assert all(torch.equal(first, second) for first, second in zip(actual, expected, strict=True))
    assert all(tensor.isfinite().all() for tensor in actual)


def endless() -> Generator[int, None, None]:
    while True:
        yield 0


def counting(end: int) -> Generator[int, None, str]:
    yield from range(end)
    return "done"


def raising(error: Exception) -> Generator[int, None, None]:
    yield 0
    raise error
