"""Measures the autoencoder's decoder in several forms: with fp32 weights under autocast, and with half-precision
weights, as the service decodes, each in both memory formats, and the fastest form as a CUDA graph."""

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu.device import clock_milliseconds, graphed, median, milliseconds
from benchmarks.gpu.lab import Lab
from benchmarks.gpu.session import recorded
from core.ml.model.autoencoder import Autoencoder
from core.ml.serving.pixels import PixelDecoder

SERVED = 3
"""Number of repetitions of decoding as the service does it, with the copy to the host."""
FORMATS = {"NCHW": torch.contiguous_format, "channels_last": torch.channels_last}
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
        fastest = min((form for form in run["forms"] if "error" not in form), key=lambda form: float(form["ms"]))
        best = graphed(partial(forms[fastest["form"]], latents), lab.device)
        run["forms"].append(_form(lab, f"{fastest['form']}, graphed", best, expected))


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
    if not lab.has_diffusers:
        return {"replacement": lab.autoencoder.decode}
    forms: dict[str, Decode] = {}
    half = torch.float16 if lab.device.type == "cuda" else torch.bfloat16
    for name, memory_format in FORMATS.items():
        forms[f"autocast, {name}"] = partial(_decode_by_autocast, _copy(lab.autoencoder, memory_format), half)
        forms[f"half precision, {name}"] = _copy(lab.autoencoder.in_dtype(half), memory_format).decode
    return forms


def _copy(coder: Autoencoder, memory_format: torch.memory_format) -> Autoencoder:
    other = copy.deepcopy(coder)
    other.network.to(memory_format=memory_format)
    return other


def _decode_by_autocast(coder: Autoencoder, dtype: torch.dtype, latents: Tensor) -> Tensor:
    with torch.autocast(latents.device.type, dtype):
        return coder.decode(latents)
