"""Curves over training: resumed line by line, and shown for several seeds as a table and a picture."""

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.paper.curves import Figure, Line, Started, options_of
from benchmarks.paper.settings import parsed
from core.artifact.training import TrainingSettings
from core.ml.tuning.latents import Latents
from core.ml.tuning.trainer import Trainer
from tests.core.ml.model.small import fresh_tensors, random_dit

FIGURE = Figure(name="figure", title="A figure", text="A text.", scores=("distance",), panel=lambda _: "panel")
IDENTITY = {"base": "b", "budget": {"at": [1, 2]}}


def lines(seeds: int, started: list[int]) -> list[Line]:
    return [Line({"line": "DiffFit", "seed": seed}, partial(start, seed, started)) for seed in range(seeds)]


def start(seed: int, started: list[int]) -> Started:
    """Returns a trainer, and a score that grows with its steps."""
    started.append(seed)
    dit = random_dit()
    latents = Latents(torch.ones(2, 3, 4, 8, 8), torch.ones(2, 3, 4, 8, 8), torch.tensor([0, 1, 2]))
    trainer = Trainer(dit, fresh_tensors(dit, "bitfit", 3), latents, TrainingSettings(steps=2, batch_size=2))
    score: Callable[[Any], dict[str, float]] = lambda _: {"distance": 10.0 * trainer.steps_done + seed}  # noqa: E731
    return trainer, score


@pytest.fixture
def options(tmp_path: Path) -> argparse.Namespace:
    words = "--at 2 1 --batch-size 2 --pictures 2 --sampling-steps 1 --output"
    options = parsed(options_of("figure", None), [*words.split(), str(tmp_path)])
    options.command = "python -m benchmarks.paper figure --seeds 2"
    return options


def test_run_continues_after_the_last_line_and_shows_the_spread(options: argparse.Namespace) -> None:
    started: list[int] = []
    FIGURE.run(lines(1, started), IDENTITY, options)
    assert "| DiffFit | 10.00 | 20.00 |" in (options.output / "figure.md").read_text()
    FIGURE.run(lines(3, started), IDENTITY, options)
    text = (options.output / "figure.md").read_text()
    assert started == [0, 1, 2], "each line must run once"
    assert "| DiffFit | 11.00 ± 1.0 | 21.00 ± 1.0 |" in text
    assert "`python -m benchmarks.paper figure --seeds 2`" in text
    assert text.rstrip().endswith("Seeds: 0, 1, 2.")
    assert (options.output / "figure.png").read_bytes().startswith(b"\x89PNG")


def test_complete_figure_is_written_again_with_its_date(options: argparse.Namespace) -> None:
    started: list[int] = []
    FIGURE.run(lines(1, started), IDENTITY, options)
    path = options.output / "figure.json"
    path.write_text(path.read_text().replace('"date": "20', '"date": "19'))
    FIGURE.run(lines(1, started), IDENTITY, options)
    assert started == [0]
    assert '"date": "19' in path.read_text()
    assert ", 19" in (options.output / "figure.md").read_text()
