"""Measures a training step of each fine-tuning method, and of full fine-tuning outside of the project's trainer."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from benchmarks.baselines.plain_dit import PlainDiT
from benchmarks.finetune_cost.subjects import OURS, full_by_diffusers, plain_step, trainer_of
from benchmarks.gpu.device import PeakMemory, clock_milliseconds, median
from benchmarks.gpu.lab import Lab
from benchmarks.gpu.operations import training_operations
from benchmarks.gpu.session import recorded
from core.artifact.sites import Method
from core.ml.model.device import release_memory
from core.ml.model.dit import DiT
from core.ml.tuning.trainer import Trainer

RECORDED_FULL_MS = 178.0
"""Milliseconds of a training step of full fine-tuning by diffusers and PyTorch under autocast, for 32 images, as
recorded on one H200 with torch 2.11 on 2026-11-26."""
WARM_STEPS = 4
"""Number of training steps before the measurement: enough that the trainer has captured its step as a CUDA graph."""
ORDER = ("difffit", "full", "bitfit", "lora, rank 8")
"""Methods in the order of measurement, the most important first."""


def measure(lab: Lab, result: dict[str, Any]) -> None:
    """Measures training steps of each method through `Trainer`, as a worker makes them."""
    result["batch"] = lab.size.batch
    result["methods"] = []
    for name in ORDER:
        method, sites = OURS[name]

        def make(method: Method = method, sites: Any = sites) -> Trainer:
            return trainer_of(lab.dit, method, sites, lab.size.batch)

        row: dict[str, Any] = {"method": name}
        result["methods"].append(row)
        with recorded(row):
            row |= _steps(lab, lambda: make().step, method)


def measure_full(lab: Lab, result: dict[str, Any]) -> None:
    """Measures full fine-tuning by diffusers under autocast; if diffusers is missing, by a plain PyTorch DiT with the
    same tensors."""
    result["batch"], result["by"] = lab.size.batch, "diffusers" if lab.has_diffusers else "plain PyTorch"
    result["recorded_ms"] = RECORDED_FULL_MS
    dit = _as_diffusers_computes(lab.dit)
    make = full_by_diffusers if lab.has_diffusers else PlainDiT
    result |= _steps(lab, lambda: plain_step(make(dit), dit, lab.size.batch).run, "full")


def _steps(lab: Lab, make: Callable[[], Callable[[], Any]], method: Method) -> dict[str, Any]:
    release_memory()
    step, memory = make(), PeakMemory(lab.device)
    for _ in range(WARM_STEPS):
        step()
    times = clock_milliseconds(step, lab.device, lab.size.training_steps)
    ms, batch, peak = median(times), lab.size.batch, memory.peak
    tflops = batch * training_operations(lab.config, method) / ms / 1e9
    return {
        "ms": ms,
        "fastest_ms": min(times),
        "tflops": tflops,
        "share": lab.share(tflops),
        "peak_bytes": peak,
        "bytes_an_image": peak / batch,
        "bytes_an_image_without_weights": (peak - memory.now) / batch,
    }


def _as_diffusers_computes(dit: DiT) -> DiT:
    """Returns a DiT with the tensors of `dit` that computes timestep features as diffusers does."""
    with torch.device("meta"):
        other = DiT(replace(dit.config, timestep_convention="diffusers", guidance_channels=4))
    other.load_state_dict(dit.state_dict(), assign=True)
    other.positions = dit.positions
    return other.requires_grad_(False)
