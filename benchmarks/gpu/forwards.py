"""Measures a forward of the base alone and a forward with one adapter per batch row: launched kernel by kernel,
captured as a CUDA graph, and compiled.

There are three sides: "plain" is the readable reference implementation of the base alone, "base" the fused operations
with the same vectors for all rows, and "mixed" the fused operations with an adapter for each row. For the base alone,
the faster one of "plain" and "base" counts.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu.ceilings import in_turn_with_product
from benchmarks.gpu.device import clock_seconds, graphed, largest_difference, milliseconds, relative_error
from benchmarks.gpu.lab import Lab
from benchmarks.gpu.operations import forward_operations
from benchmarks.gpu.session import recorded
from benchmarks.serving.subjects import CLASSES
from core.ml.model.adapter import TensorAdapter
from core.ml.model.folding import fold, folded_forward

EQUAL_ROWS = 8


@torch.inference_mode()
def measure(lab: Lab, result: dict[str, Any]) -> None:
    """Measures forwards of every batch size, launched kernel by kernel and as a CUDA graph, the main batch size
    first."""
    result["rows"] = []
    for rows in lab.size.rows:
        row: dict[str, Any] = {"rows": rows}
        result["rows"].append(row)
        with recorded(row):
            for name, forward in forwards(lab, rows).items():
                row[f"{name}_eager_ms"] = milliseconds(forward, lab.device, lab.size.seconds)
                row[f"{name}_graphed_ms"] = milliseconds(graphed(forward, lab.device), lab.device, lab.size.seconds)
            row |= best_of(lab, row)
    with recorded(part := result.setdefault("in_turn", {"rows": lab.size.main_rows})):
        part |= _in_turn_with_product(lab)


@torch.inference_mode()
def measure_equality(lab: Lab, result: dict[str, Any]) -> None:
    """Compares a mixed batch with each of its rows computed alone, and with the readable reference, in the base's dtype
    and in fp32."""
    for dtype in dict.fromkeys((lab.dtype, torch.float32)):
        part: dict[str, Any] = {}
        result[str(dtype).removeprefix("torch.")] = part
        with recorded(part):
            part |= _equality(lab, dtype)


@torch.inference_mode()
def measure_compiled(lab: Lab, result: dict[str, Any]) -> None:
    """Measures forwards of the main batch size compiled by Inductor, launched directly and as a CUDA graph. A side's
    best time is its least time in this phase and in the phase `forwards`."""
    earlier = lab.results.get("forwards", {}).get("rows", [])
    result |= next((row for row in earlier if row["rows"] == lab.size.main_rows), {"rows": lab.size.main_rows})
    sides = forwards(lab, lab.size.main_rows)
    for name in ("plain", "mixed"):
        with recorded(result):
            result |= _compiled(lab, name, sides[name])
    result |= best_of(lab, result)


def forwards(lab: Lab, rows: int) -> dict[str, Callable[[], Tensor]]:
    """Returns the forward of each side by the side's name. Vectors are gathered from a table by slot, as in the
    engine."""
    dit = lab.dit
    x, t, y = lab.batch(rows)
    classes, table = lab.classes(y), lab.table(rows)
    slots, base = torch.randperm(rows, device=lab.device), torch.zeros(rows, dtype=torch.long, device=lab.device)
    dit.positions_for(x.shape[-1])
    return {
        "plain": lambda: dit(x, t, y),
        "base": lambda: folded_forward(dit, x, t, classes, table[base]),
        "mixed": lambda: folded_forward(dit, x, t, classes, table[slots]),
    }


def _compiled(lab: Lab, name: str, forward: Callable[[], Tensor]) -> dict[str, float]:
    backend = "inductor" if lab.device.type == "cuda" else "eager"
    compiled: Callable[[], Tensor] = torch.compile(forward, dynamic=False, backend=backend)
    seconds = clock_seconds(compiled, lab.device)
    return {
        f"{name}_compile_seconds": seconds,
        f"{name}_compiled_ms": milliseconds(compiled, lab.device, lab.size.seconds),
        f"{name}_compiled_graphed_ms": milliseconds(graphed(compiled, lab.device), lab.device, lab.size.seconds),
    }


def best_of(lab: Lab, row: dict[str, Any]) -> dict[str, Any]:
    """Returns, for the base alone and for mixed, the best time, its rate, and the fraction of the device's rate; and
    the throughput of mixed relative to the base alone."""
    launched = {name: ms for name, ms in row.items() if name.endswith(("_eager_ms", "_graphed_ms", "_compiled_ms"))}
    best = {
        side: min(ms for name, ms in launched.items() if name.startswith(names))
        for side, names in {"plain": ("plain", "base"), "mixed": ("mixed",)}.items()
    }
    operations = row["rows"] * forward_operations(lab.config)
    figures: dict[str, Any] = {"mixed_over_plain": best["plain"] / best["mixed"]}
    for side, ms in best.items():
        tflops = operations / ms / 1e9
        figures |= {f"{side}_best_ms": ms, f"{side}_tflops": tflops, f"{side}_share": lab.share(tflops)}
    return figures


def _in_turn_with_product(lab: Lab) -> dict[str, float]:
    """Returns the time of a mixed forward of the main batch size, and its rate as a fraction of that of a large matrix
    product which is measured in turn with it."""
    rows = lab.size.main_rows
    figures = in_turn_with_product(lab, graphed(forwards(lab, rows)["mixed"], lab.device))
    tflops = rows * forward_operations(lab.config) / figures["ms"] / 1e9
    return figures | {"tflops": tflops, "product_share": tflops / figures["product_tflops"]}


def _equality(lab: Lab, dtype: torch.dtype) -> dict[str, Any]:
    dit, rows = lab.dit_in(dtype), min(EQUAL_ROWS, lab.size.main_rows)
    x, t, _ = lab.batch(rows)
    y = torch.arange(rows, device=lab.device) % CLASSES
    domains = lab.domains(rows).values()
    adapters = [{name: tensor.to(lab.device) for name, tensor in domain.items()} for domain in domains]
    vectors = torch.stack([fold(dit, adapter) for adapter in adapters]).to(dtype)
    tables = [adapter["y_embedder.embedding_table.weight"].to(dtype) for adapter in adapters]
    classes = torch.stack([table[label] for table, label in zip(tables, y, strict=True)])
    together = folded_forward(dit, x, t, classes, vectors)
    alone: list[Callable[[], Tensor]] = [
        partial(folded_forward, dit, x[[i]], t[[i]], classes[[i]], vectors=vectors[[i]]) for i in range(rows)
    ]
    reference = [partial(dit, x[[i]], t[[i]], y[[i]], TensorAdapter(adapters[i])) for i in range(rows)]
    solo, plain = (torch.cat([forward() for forward in forwards]) for forwards in (alone, reference))
    return {
        "rows": rows,
        "largest_difference_from_alone": largest_difference(together, solo),
        "relative_error_from_alone": relative_error(together, solo),
        "relative_error_from_reference": relative_error(together, plain),
    }
