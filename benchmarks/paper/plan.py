"""Estimates what a comparison costs with DiT-XL/2 on one GPU, from the rates that `benchmarks.gpu` measured."""

import json
from collections.abc import Sequence
from typing import Any

from benchmarks.gpu.page import JSON
from benchmarks.paper.cells import Budget
from benchmarks.paper.systems import System
from benchmarks.report import markdown_table

ROWS = 64
"""Batch rows of a sampling step: 32 guided images, as `Artist` draws them."""
MEASURED = {"full": "full", "difffit": "difffit", "bitfit": "bitfit", "lora": "lora, rank 8"}
"""Names of the measured methods. The rate of LoRA is taken for the two methods that are not measured."""


def plan(systems: Sequence[System], budget: Budget, micro_batch_size: int, cells: int) -> str:
    """Returns a table with the hours of training and sampling, and the GPU memory, of one cell of each system, and a
    sentence with the hours of `cells` cells of each."""
    values = json.loads(JSON.read_text())
    training = values["phases"]["training"]
    methods = {row["method"]: row for row in training["methods"]}
    forward = next(row["plain_eager_ms"] for row in values["phases"]["forwards"]["rows"] if row["rows"] == ROWS)
    rows = 1 if budget.sampling.guidance_scale == 1 else 2
    sampling = budget.pictures * budget.sampling.steps * rows * forward / ROWS / 3.6e6
    lines, total = [], 0.0
    for system in systems:
        row = methods[MEASURED.get(system.method, MEASURED["lora"])]
        hours = budget.steps * budget.batch_size * row["ms"] / training["batch"] / 3.6e6
        total += hours + sampling
        memory = _memory(row, training["batch"], micro_batch_size)
        mark = "" if system.method in MEASURED else " (LoRA's)"
        lines.append((system.name, f"{hours:.1f}{mark}", f"{sampling:.1f}", f"{memory / 1e9:.0f}{mark}"))
    table = markdown_table(("system", "training, hours", "sampling, hours", "memory, GB"), lines)
    gpu = values["hardware"]["gpu"]
    return (
        f"One cell with DiT-XL/2 on one {gpu}: {budget.steps:,} steps of {budget.batch_size} images, "
        f"{micro_batch_size} at once, then {budget.pictures:,} images of {budget.sampling.steps} steps.\n\n{table}\n\n"
        f"{cells} cells of each system: {cells * total:,.0f} hours. Encoding, decoding and scoring are not counted."
    )


def _memory(row: dict[str, Any], batch: int, micro_batch_size: int) -> float:
    """Returns the memory in bytes of a training step with micro-batches of another size than the measured batch."""
    memory: float = row["peak_bytes"] + (micro_batch_size - batch) * row["bytes_an_image_without_weights"]
    return memory
