"""`python -m benchmarks.finetune_cost`: measures time and peak memory of a training step, for each fine-tuning method.

Each method runs in a separate process, and the processes step in turns, so that other load on the machine affects all
methods alike. On a CPU the model has four blocks of DiT-XL/2's width, since all 28 would take minutes per training
step. With a GPU, the whole model is measured too.
"""

import argparse
import statistics
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import track

from benchmarks.finetune_cost.process import Subject
from benchmarks.finetune_cost.subjects import NAMES, Seconds, Setting
from benchmarks.report import FOLDER, Measure, Part, Table, facts, show, write_json, write_markdown

BY_OPERATIONS = 0.68
"""Time of a DiffFit training step as a fraction of full fine-tuning's, as expected from the number of operations alone:
a frozen layer computes its output and `grad_x`, but no `grad_weight`."""
LIMITS = {"cpu": {"step": 0.62, "gradients": 0.70, "memory": 0.45}, "cuda": {"step": 0.49, "memory": 0.45}}
"""Maximum ratios of DiffFit's figures to full fine-tuning's, per device."""
Row = dict[str, Any]


def main(arguments: Sequence[str] | None = None) -> None:
    options = _options(arguments)
    console = Console(stderr=True)
    settings = [Setting(depth=options.depth, batch=options.batch, device="cpu", threads=options.threads)]
    if torch.cuda.is_available():
        settings.append(Setting(depth=28, batch=options.gpu_batch, device="cuda", threads=options.threads))
    else:
        console.print("Not measured: the whole model, since there is no GPU here.")
    tables: list[Row] = []
    parts: list[Part] = []
    for setting in settings:
        rows = measure(setting, options.rounds, console)
        measures = verdicts(rows, setting.device)
        parts += _parts(setting, rows, measures)
        tables.append({
            "setting": vars(setting), "rows": rows, "verdicts": [row.to_json() for row in measures],
        })  # fmt: skip
    parts += [] if len(tables) > 1 else ["Not measured: the whole model, since there was no GPU."]
    show(*parts)
    header = facts("python -m benchmarks.finetune_cost", "0, weights and data are random", rounds=options.rounds)
    write_json(options.output / "finetune_cost.json", {**header, "tables": tables})
    write_markdown(options.output / "finetune_cost.md", "What a fine-tuning step costs", header, parts)


def measure(setting: Setting, rounds: int, console: Console) -> list[Row]:
    """Times all methods and returns one row per method: medians over `rounds` training steps, after one step that does
    not count."""
    rows: list[Row] = []
    with ExitStack() as stack:
        subjects = {}
        for name in track(NAMES, "making the models", console=console):
            subjects[name] = Subject(name, setting)
            stack.callback(subjects[name].close)
        seconds: dict[str, list[tuple[Seconds, Seconds]]] = {name: [] for name in subjects}
        for turn in track(range(rounds + 1), "steps", console=console):
            for name, subject in subjects.items():
                duration = subject.seconds()
                if turn:
                    seconds[name].append(duration)
        for name, subject in subjects.items():
            steps, optimizers = zip(*seconds[name], strict=True)
            rows.append({
                "method": name,
                "trainable": subject.trainable,
                "step": _median(steps, setting),
                "gradients": _median([step - optimizer for step, optimizer in seconds[name]], setting),
                "optimizer": _median(optimizers, setting),
                "clock": statistics.median(timing.clock for timing in steps) / setting.batch,
                "memory": subject.peak_gibibytes() / setting.batch,
                "steps": [vars(timing) for timing in steps],
            })  # fmt: skip
    return rows


def _median(steps: Sequence[Seconds], setting: Setting) -> float:
    """Returns the median of the seconds per image: processor time on a CPU, which may be busy with other work, and
    clock time on a GPU."""
    values = [step.processor if setting.device == "cpu" else step.clock for step in steps]
    return statistics.median(values) / setting.batch


def verdicts(rows: Sequence[Row], device: str) -> list[Measure]:
    """Compares DiffFit with full fine-tuning: the project's own, and full fine-tuning by diffusers and PyTorch."""
    of = {row["method"]: row for row in rows}
    return [
        Measure(
            name=f"DiffFit's {figure} / that of '{full}'",
            value=of["difffit"][figure] / of[full][figure],
            limit=limit,
            best="lowest",
        )
        for full in of if full.startswith("full")
        for figure, limit in LIMITS[device].items()
    ]  # fmt: skip


def _parts(setting: Setting, rows: Sequence[Row], measures: Sequence[Measure]) -> list[Part]:
    full = rows[0]
    lines = [
        (
            row["method"],
            f"{row['trainable']:,}",
            *(f"{1000 * row[name]:.0f} ({row[name] / full[name]:.2f}x)" for name in ("step", "gradients")),
            f"{1000 * row['optimizer']:.0f}",
            f"{1000 * row['clock']:.0f} ({row['clock'] / full['clock']:.2f}x)",
            f"{row['memory']:.2f} ({row['memory'] / full['memory']:.2f}x)",
        )
        for row in rows
    ]
    head = ("method", "trains", "ms an image", "without the optimizer", "optimizer", "clock", "peak GiB an image")
    beaten = (
        f"By operations alone it would be {BY_OPERATIONS}x. What is below comes from what is not kept for the backward "
        "pass (normalized activations, GELU's results and inputs of frozen layers are neither written nor read again) "
        "and from neither gathered gradients nor an optimizer for the frozen weights. Ours, on a CPU, all have "
        "oneDNN's products; the two of diffusers have PyTorch's choice, which takes twice as long on an AMD EPYC."
    )
    where = (
        f"{setting.depth} blocks of DiT-XL/2's width on {setting.device}, batches of {setting.batch}, "
        f"threads: {setting.threads}. Medians. On a CPU, times are CPU seconds; the column `clock` has wall time."
    )
    return [where, Table(head, lines), Table.of_measures(measures), beaten]


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.finetune_cost",
        description=__doc__,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--depth", type=int, default=4, help="blocks on the CPU")
    parser.add_argument("--batch", type=int, default=8, help="images a step on the CPU")
    parser.add_argument("--gpu-batch", type=int, default=32)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--output", type=Path, default=FOLDER)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
