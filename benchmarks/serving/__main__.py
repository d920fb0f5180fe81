"""`python -m benchmarks.serving`: measures, prints the table, writes JSON and the throughput's curve."""

import argparse
import re
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import torch
from diffusers.utils import logging as diffusers_logging
from rich.console import Console

from benchmarks.hardware import hardware
from benchmarks.serving.catalogue import QUESTIONS, measure_all
from benchmarks.serving.measure import QUICK, Measure, Repetitions
from benchmarks.serving.report import draw_curve, show, write_json
from benchmarks.serving.subjects import Kind, subject


def main(arguments: Sequence[str] | None = None) -> None:
    options = _options(arguments)
    diffusers_logging.set_verbosity_error()
    if options.threads:
        torch.set_num_threads(options.threads)
    repetitions = QUICK if options.quick else Repetitions()
    progress = Console(stderr=True)
    measures: list[Measure] = []
    wanted = measure_all(options.only, options.on, lambda kind: subject(kind, compile=options.compile), repetitions)
    for measure in wanted:
        measures.append(measure)
        progress.print(f"{measure.name}, {measure.subject}: {measure.value} {measure.verdict}", soft_wrap=True)
    facts = hardware() | {"compile": options.compile}
    show(measures, facts, repetitions)
    if options.json:
        write_json(options.json, measures, facts, repetitions)
        _draw_curves(options.json, measures)


def _draw_curves(json: Path, measures: Sequence[Measure]) -> None:
    """Beside the JSON, one for each model."""
    curves: dict[str, list[tuple[int, float]]] = {}
    for measure in measures:
        if measure.unit == "rows/s" and measure.value is not None:
            (rows,) = measure.samples
            curves.setdefault(measure.subject, []).append((int(rows), measure.value))
    for subject_name, points in curves.items():
        slug = re.sub(r"\W+", "-", subject_name.lower())
        draw_curve(json.with_name(f"{json.stem}-{slug}.png"), points, subject_name)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving", description=__doc__)
    parser.add_argument("--json", type=Path, help="write the figures here, and the curves beside it as PNG")
    parser.add_argument("--only", nargs="+", choices=QUESTIONS, default=list(QUESTIONS), help="these measures alone")
    parser.add_argument("--on", nargs="+", choices=get_args(Kind), default=get_args(Kind), help="these models alone")
    parser.add_argument("--quick", action="store_true", help="few repetitions, to see that it works")
    parser.add_argument("--threads", type=int, help="of torch on the CPU; all cores when not given")
    parser.add_argument(
        "--compile",
        action="store_true",
        help="on the GPU, torch.compile for single forwards and for diffusers' pipeline",
    )
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
