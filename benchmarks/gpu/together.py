"""Measures fine-tunes with small batches that share a training step, next to the same fine-tunes one after another."""

from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.finetune_cost.subjects import OURS, trainer_of
from benchmarks.gpu.device import clock_milliseconds, largest_difference, median
from benchmarks.gpu.lab import Lab
from benchmarks.gpu.operations import training_operations
from benchmarks.gpu.training import WARM_STEPS
from core.ml import slices
from core.ml.tuning.trainer import Trainer


def measure(lab: Lab, result: dict[str, Any]) -> None:
    """Times one training step of each fine-tune, first one after another, then all in one pass of the model, from the
    same initial weights."""
    count, batch = lab.size.together, lab.size.together_batch
    alone, together = _trainers(lab), _trainers(lab)
    sides: dict[str, Callable[[], None]] = {
        "one after another": lambda: _step_alone(alone),
        "together": lambda: step_together(together),
    }
    result |= {"fine-tunes": count, "batch": batch}
    for name, step in sides.items():
        for _ in range(WARM_STEPS):
            step()
        times = clock_milliseconds(step, lab.device, lab.size.training_steps)
        tflops = count * batch * training_operations(lab.config, "difffit") / median(times) / 1e9
        result[name] = {"ms": median(times), "tflops": tflops, "share": lab.share(tflops)}
    result["gain"] = result["one after another"]["ms"] / result["together"]["ms"]
    pairs = zip(together, alone, strict=True)
    moved = [largest_difference(mine.parameters.detach(), other.parameters.detach()) for mine, other in pairs]
    result["largest_difference_of_parameters"] = max(moved)


def step_together(trainers: Sequence[Trainer]) -> None:
    """Makes one training step of each trainer, all in one pass of the model, as the engine's loop does."""
    steps = [trainer.parts() for trainer in trainers]
    first, *others = [next(step) for step in steps]
    assert all(learner.joins([first, *others[:index]]) for index, learner in enumerate(others))
    first.compute_with(others)
    for step in steps:
        slices.run(step)


def _step_alone(trainers: Sequence[Trainer]) -> None:
    for trainer in trainers:
        trainer.step()


def _trainers(lab: Lab) -> list[Trainer]:
    rows = lab.size.together * lab.size.together_batch
    seeds = range(lab.size.together)
    return [trainer_of(lab.dit, *OURS["difffit"], lab.size.together_batch, seed, max_rows=rows) for seed in seeds]
