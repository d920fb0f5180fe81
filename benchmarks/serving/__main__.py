"""`python -m benchmarks.serving`: measures the serving engine, prints a table, and writes JSON and plots of the
throughput."""

import argparse
import re
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import get_args

import torch
from diffusers.utils import logging as diffusers_logging
from rich.console import Console

from benchmarks.report import Measure, Table, hardware, hardware_line, plot, show, write_json
from benchmarks.serving.catalogue import QUESTIONS, measure_all
from benchmarks.serving.measure import QUICK, Repetitions
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
    show(Table.of_measures(measures, f"{hardware_line(facts)}, threads: {facts['threads']}, torch {facts['torch']}"))
    show(f"Medians of {repetitions.forward} forwards and {repetitions.engine} runs of the engine, in turns.")
    if repetitions.quick:
        show("Quick: too few repetitions for a verdict.")
    if options.json:
        rows = [measure.to_json() for measure in measures]
        header = {"hardware": facts, "quick": repetitions.quick, "repetitions": asdict(repetitions)}
        write_json(options.json, {**header, "measures": rows})
        _draw_curves(options.json, measures)


def _draw_curves(json: Path, measures: Sequence[Measure]) -> None:
    """Plots throughput over the number of batch rows in flight, as one PNG per model next to the JSON."""
    curves: dict[str, list[tuple[int, float]]] = {}
    for measure in measures:
        if measure.unit == "rows/s" and measure.value is not None:
            (rows,) = measure.samples
            curves.setdefault(measure.subject, []).append((int(rows), measure.value))
    for subject_name, points in curves.items():
        slug = re.sub(r"\W+", "-", subject_name.lower())
        with plot(json.with_name(f"{json.stem}-{slug}.png")) as (axes,):
            axes.plot(*zip(*points, strict=True), marker="o")
            axes.set(title=subject_name, xlabel="rows in flight", ylabel="row-steps a second", xlim=0, ylim=0)


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
