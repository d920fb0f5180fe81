"""Catalogue of the serving benchmarks: the function that measures each, the models it runs on, and the reasons for
skipping it."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec

import torch

from benchmarks.report import Measure
from benchmarks.serving import competitors, fairness, forward, slots, solitude, steps
from benchmarks.serving.measure import Repetitions
from benchmarks.serving.subjects import Kind, Subject

NAMES: dict[Kind, str] = {"mini": "mini base, CPU", "wide": "blocks of XL width, CPU", "full": "DiT-XL/2, GPU"}


@dataclass(frozen=True)
class Question:
    ask: Callable[[Subject, Repetitions], list[Measure]]
    title: str
    kinds: tuple[Kind, ...] = ("mini", "wide", "full")
    needs: str | None = None
    """Package of the `benchmarks` extra, without which the measurement is skipped."""


QUESTIONS = {
    "mixed": Question(forward.mixed_adapters, "32 rows with 32 adapters / with none"),
    "residency": Question(forward.residency, "1,000 and 10,000 adapters resident / 10"),
    "cliff": Question(slots.cliff, "4 times more adapters than slots / all resident"),
    # The adapter always has XL's size, so one measurement on the CPU and one on the GPU are enough.
    "activation": Question(forward.activation, "activating an adapter of XL size", kinds=("mini", "full")),
    "swapping": Question(competitors.swapping, "16 domains mixed / diffusers' pipeline that swaps weights"),
    "peft": Question(competitors.peft, "16 domains mixed / PEFT's mixed batch", needs="peft"),
    "overhead": Question(steps.overhead, "time outside the forward"),
    "joining": Question(fairness.joining, "a request that joins one of 250 steps"),
    # A sampling step of the wide blocks takes seconds on a CPU; for scheduling and equality the mini base is enough.
    "flood": Question(fairness.flood, "a request in another tenant's flood", kinds=("mini", "full")),
    "solo": Question(solitude.solo, "rows against their solo run", kinds=("mini", "full")),
    "throughput": Question(steps.throughput, "row-steps a second"),
}


def measure_all(
    names: Sequence[str], kinds: Sequence[Kind], subject: Callable[[Kind], Subject], repetitions: Repetitions
) -> Iterator[Measure]:
    """Runs the chosen benchmarks in the catalogue's order and yields each measure as soon as it is done. A skipped
    benchmark yields a measure without a value, with the reason as its note."""
    for name, question in QUESTIONS.items():
        if name not in names:
            continue
        for kind in question.kinds:
            if kind not in kinds:
                continue
            if reason := _missing(question, kind):
                yield Measure(name=question.title, subject=NAMES[kind], value=None, note=reason)
            else:
                yield from question.ask(subject(kind), repetitions)


def _missing(question: Question, kind: Kind) -> str:
    if kind == "full" and not torch.cuda.is_available():
        return "no GPU"
    if question.needs and find_spec(question.needs) is None:
        return f"{question.needs} is not installed; pip install -e '.[benchmarks]'"
    return ""
