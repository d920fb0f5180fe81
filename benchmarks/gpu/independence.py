"""Measures at full size whether an image depends on the other images in its batch."""

from typing import Any

import torch

from benchmarks.gpu.device import largest_difference
from benchmarks.gpu.lab import Lab
from benchmarks.gpu.session import recorded
from benchmarks.serving.load import Serving, request
from benchmarks.serving.solitude import latents_of


def measure(lab: Lab, result: dict[str, Any]) -> None:
    """Compares guided images with separate adapters, generated together in one batch, with the same images generated
    alone: with any batch size in the base's dtype and in fp32, and with one batch size ("exact")."""
    result["images"], result["steps"] = lab.size.neighbours, lab.size.neighbour_steps
    modes = {"exact": lab.dtype} | {str(dtype).removeprefix("torch."): dtype for dtype in (lab.dtype, torch.float32)}
    for name, dtype in modes.items():
        mode: dict[str, Any] = {}
        result[name] = mode
        with recorded(mode):
            mode |= _difference(lab, dtype, exact=name == "exact")


def _difference(lab: Lab, dtype: torch.dtype, *, exact: bool) -> dict[str, Any]:
    count = lab.size.neighbours
    requests = [request(str(i), steps=lab.size.neighbour_steps, seeds=(i,), class_id=0) for i in range(count)]
    serving = Serving(lab.subject(dtype), lab.domains(count), max_rows=2 * count, exact=exact)
    try:
        together = latents_of(serving, requests)
        alone = [latents_of(serving, [single])[0] for single in requests]
    finally:
        serving.cache.close()
    pairs = list(zip(together, alone, strict=True))
    return {
        "largest_difference": max(float((single - other).abs().max()) for single, other in pairs),
        "largest_relative_difference": max(largest_difference(single, other) for single, other in pairs),
        "equal": sum(torch.equal(single, other) for single, other in pairs),
    }
