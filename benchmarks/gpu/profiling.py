"""Profiles one mixed forward and one training step: the time of the device's kernels by kind."""

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from benchmarks.finetune_cost.subjects import OURS, trainer_of
from benchmarks.gpu.device import graphed, synchronize
from benchmarks.gpu.forwards import forwards
from benchmarks.gpu.lab import Lab
from benchmarks.gpu.session import recorded
from benchmarks.gpu.training import WARM_STEPS

KINDS = {
    "fused": r"^triton_",
    "attention": r"flash|fmha|sdpa|attention|mha",
    "products": r"gemm|cutlass|nvjet|cublas|xmma|wgmma|splitk|_mm\b|addmm",
    "copies": r"memcpy|memset|copy",
    "layer norm": r"layer_?norm",
    "element-wise and sums": r"elementwise|vectorized|reduce|foreach|multi_tensor|softmax|index|cat_?array",
}
"""Patterns of kernel names by kind of kernel; the first match counts. A kernel that matches none is a fused one, which
Triton generated."""
TOP = 15


@dataclass(frozen=True)
class Kernel:
    """Kernel or copy that ran on the device, with its start and length in microseconds."""

    name: str
    start: float
    length: float


def measure(lab: Lab, result: dict[str, Any]) -> None:
    """Profiles a forward of the main batch, captured as a CUDA graph, and a DiffFit training step."""
    forward_part: dict[str, Any] = {}
    step_part: dict[str, Any] = {}
    result |= {"forward": forward_part, "training step": step_part}
    with recorded(forward_part), torch.inference_mode():
        forward = graphed(forwards(lab, lab.size.main_rows)["mixed"], lab.device)
        forward_part |= summary(profiled(forward, lab.device))
    with recorded(step_part):
        trainer = trainer_of(lab.dit, *OURS["difffit"], lab.size.batch)
        for _ in range(WARM_STEPS + 1):
            trainer.step()
        step_part |= summary(profiled(trainer.step, lab.device))


def profiled(action: Callable[[], Any], device: torch.device) -> list[Kernel]:
    """Runs `action` and returns the kernels that ran on the device; on a CPU, PyTorch's operators instead of
    kernels."""
    activity = torch.profiler.ProfilerActivity
    activities = [activity.CUDA if device.type == "cuda" else activity.CPU]
    synchronize(device)
    with torch.profiler.profile(activities=activities, acc_events=True) as profile:
        action()
        synchronize(device)
    events = [event for event in profile.events() if event.device_type.name == device.type.upper()]
    return [Kernel(event.name, event.time_range.start, event.time_range.elapsed_us()) for event in events]


def summary(kernels: Sequence[Kernel]) -> dict[str, Any]:
    """Returns the milliseconds per kind of kernel, and the slowest kernels with their counts and milliseconds."""
    kinds: dict[str, float] = defaultdict(float)
    names: dict[str, tuple[int, float]] = {}
    for kernel in kernels:
        kinds[kind_of(kernel.name)] += kernel.length / 1000
        count, total = names.get(kernel.name, (0, 0.0))
        names[kernel.name] = count + 1, total + kernel.length / 1000
    top = sorted(names.items(), key=lambda item: -item[1][1])[:TOP]
    return {
        "busy_ms": 1000 * busy_seconds(kernels),
        "kernels": len(kernels),
        "kinds": dict(sorted(kinds.items(), key=lambda item: -item[1])),
        "top": [{"name": name[:120], "count": count, "ms": total} for name, (count, total) in top],
    }


def kind_of(name: str, kinds: Mapping[str, str] = KINDS) -> str:
    return next((kind for kind, pattern in kinds.items() if re.search(pattern, name, re.IGNORECASE)), "fused")


def busy_seconds(kernels: Iterable[Kernel]) -> float:
    """Returns the seconds in which at least one kernel runs."""
    busy, end = 0.0, float("-inf")
    for kernel in sorted(kernels, key=lambda kernel: kernel.start):
        stop = kernel.start + kernel.length
        busy += max(0.0, stop - max(end, kernel.start))
        end = max(end, stop)
    return busy / 1e6
