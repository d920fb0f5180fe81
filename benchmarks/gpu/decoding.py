"""Measures the autoencoder's decoder: as the service decodes, in half precision by diffusers, and in half precision
with fused operations, the last also as a CUDA graph."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu.device import clock_milliseconds, graphed, median, milliseconds
from benchmarks.gpu.lab import Lab
from benchmarks.gpu.session import recorded
from core.ml.model.fused_decoder import FusedDecoder, can_fuse
from core.ml.serving.pixels import PixelDecoder

SERVED = 3
"""Number of repetitions of decoding as the service does it, with the copy to the host."""
LEVELS = 127.5
"""Number of 8-bit levels in a pixel value of 1."""
Decode = Callable[[Tensor], Tensor]


@torch.inference_mode()
def measure(lab: Lab, result: dict[str, Any]) -> None:
    """Measures each form of the decoder on each number of latents, and the largest difference of its pixels from fp32's
    in 8-bit levels."""
    forms = _forms(lab)
    served = PixelDecoder(lab.autoencoder, lab.device)
    result |= {"decodes": lab.has_diffusers, "runs": []}
    for count in lab.size.decoded:
        latents = lab.batch(count)[0]
        run: dict[str, Any] = {"latents": count, "forms": []}
        result["runs"].append(run)
        run["served_ms"] = median(clock_milliseconds(partial(served.decode, list(latents)), lab.device, SERVED))
        expected = lab.autoencoder.decode(latents)
        for name, decode in forms.items():
            run["forms"].append(_form(lab, name, partial(decode, latents), expected))
        name, decode = list(forms.items())[-1]
        replay = graphed(partial(decode, latents), lab.device)
        run["forms"].append(_form(lab, f"{name}, graphed", replay, expected))


def _form(lab: Lab, name: str, decode: Callable[[], Tensor], expected: Tensor) -> dict[str, Any]:
    form: dict[str, Any] = {"form": name}
    with recorded(form):
        form["ms"] = milliseconds(decode, lab.device, lab.size.seconds)
        form["images_a_second"] = 1000 * len(expected) / form["ms"]
        form["levels"] = LEVELS * float((decode().float() - expected).abs().max())
    return form


def _forms(lab: Lab) -> dict[str, Decode]:
    """Returns functions from latents [B, C, H, W] to pixels [B, 3, S, S] by name. Without diffusers, returns only the
    replacement of the autoencoder."""
    coder = lab.autoencoder
    if not lab.has_diffusers:
        return {"replacement": coder.decode}
    half = torch.float16 if lab.device.type == "cuda" else torch.bfloat16
    forms: dict[str, Decode] = {"half precision, NCHW": coder.in_dtype(half).decode}
    if can_fuse(coder.network):
        fused = FusedDecoder(coder.network, half)
        forms["fused"] = lambda latents: fused(latents / coder.scale + coder.shift).float()
    return forms
