"""Measures, at full size, whether images of every kind of guidance and adapter scale are computed correctly beside each
other, whether learned guidance trains equally with and without CUDA graphs, and whether graphs can be captured again
and beside other work on the device."""

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from benchmarks.finetune_cost.subjects import random_latents
from benchmarks.gpu.device import largest_difference
from benchmarks.gpu.forwards import forwards
from benchmarks.gpu.lab import Lab
from benchmarks.gpu.session import recorded
from benchmarks.serving.load import Serving, request
from benchmarks.serving.solitude import latents_of
from benchmarks.serving.subjects import CLASSES
from core.artifact.sampling import SamplingSettings
from core.artifact.sites import GUIDED
from core.artifact.training import TrainingSettings
from core.ml.model.graphs import CudaGraphs
from core.ml.serving.request import ImageRequest
from core.ml.tuning import passes
from core.ml.tuning.distillation import GuidanceTrainer
from core.ml.tuning.parallel import ALONE

SETTINGS: dict[str, dict[str, Any]] = {
    "guided": {},
    "not guided": {"guidance_scale": 1.0},
    "guided against the base": {"guidance_adapter_scale": 0.0},
    "guided against a weaker adapter": {"guidance_adapter_scale": 0.75},
    "adapter at scale 0": {"adapter_scale": 0.0},
    "adapter at scale 0.5": {"adapter_scale": 0.5},
    "adapter at scale 1.5": {"adapter_scale": 1.5},
    "adapter at scale 1.5, guided against a weaker one": {"adapter_scale": 1.5, "guidance_adapter_scale": 0.5},
    "guided in an interval, DPM-Solver++": {"guidance_interval": (200, 800), "sampler": "dpmpp_2m"},
    "guided, DDPM": {"sampler": "ddpm"},
    "learned guidance": {"guidance_scale": 3.0, "learned_guidance": 4.0},
}
"""Sampling settings of the images that share a batch, by the name of the kind of image."""
LEARNING_STEPS = 6
"""Number of training steps that learn guidance: the first run eagerly, the others are replayed."""
CAPTURES = 3
Forward = Callable[[], Tensor]


def measure(lab: Lab, result: dict[str, Any]) -> None:
    """Compares images of all kinds in one batch with the same images alone, with one batch size ("exact") and with any;
    then two trainings of learned guidance; then outputs of captured graphs."""
    result["steps"] = lab.size.neighbour_steps
    for name in ("exact", "default"):
        mode: dict[str, Any] = {}
        result[name] = mode
        with recorded(mode):
            mode |= _images(lab, exact=name == "exact")
    result["learning"], result["graphs"] = {}, {}
    with recorded(result["learning"]):
        result["learning"] |= _learning(lab)
    with recorded(result["graphs"]), torch.inference_mode():
        result["graphs"] |= _captures(lab)


def _images(lab: Lab, *, exact: bool) -> dict[str, Any]:
    """Compares final latents, and in exact mode the 8-bit images that the engine returns too."""
    requests = _requests(lab)
    serving = Serving(lab.subject(), _adapters(lab), slots=32, max_rows=2 * len(requests), exact=exact)
    together = latents_of(serving, requests)
    alone = [latents_of(serving, [single])[0] for single in requests]
    pairs = dict(zip(SETTINGS, zip(together, alone, strict=True), strict=True))
    result: dict[str, Any] = {
        "largest_difference": max(float((single - other).abs().max()) for single, other in pairs.values()),
        "relative": {name: largest_difference(single, other) for name, (single, other) in pairs.items()},
        "equal": sum(torch.equal(single, other) for single, other in pairs.values()),
    }
    if not exact:
        serving.cache.close()
        return result
    with serving:
        waiting = [serving.submit(single) for single in requests]
        images = [drawn.result().images[0] for drawn in waiting]
        same = [torch.equal(serving.submit(single).result().images[0], images[i]) for i, single in enumerate(requests)]
    return result | {"equal_images": sum(same)}


def _requests(lab: Lab) -> list[ImageRequest]:
    """Returns a request of each kind. All but the last have the same adapter, each scale of which needs a slot."""
    steps = lab.size.neighbour_steps
    return [
        replace(
            request("learned" if "learned_guidance" in chosen else "plain", steps=steps, seeds=(index,), class_id=0),
            sampling=SamplingSettings(steps=steps, **chosen),
            base_class=1,
        )
        for index, chosen in enumerate(SETTINGS.values())
    ]


def _adapters(lab: Lab) -> dict[str, Mapping[str, Tensor]]:
    _, plain, learned = lab.domains(3).values()  # the first has the values with which training starts
    guided = {GUIDED + name: tensor for name, tensor in plain.items()}
    return {"plain": plain, "learned": {**learned, **guided}}


def _learning(lab: Lab) -> dict[str, Any]:
    """Trains learned guidance from the same state with and without CUDA graphs, and returns the losses of the training
    steps."""
    replayed = _losses(lab)
    with patch.object(passes, "capture_for", lambda _: None):
        eager = _losses(lab)
    relative = [abs(loss / other - 1) for loss, other in zip(replayed, eager, strict=True)]
    return {"replayed": replayed, "eager": eager, "largest_relative_difference": max(relative)}


def _losses(lab: Lab) -> list[float]:
    batch, start = lab.size.together_batch, lab.domains(1)["0"]
    taught = {name: tensor.to(lab.device) for name, tensor in start.items()}
    settings = TrainingSettings(steps=1000, batch_size=batch, held_out_fraction=0, distill_guidance=4.0)
    latents = random_latents(lab.config, 4 * batch, CLASSES, seed=0)
    trainer = GuidanceTrainer(
        lab.dit, taught, latents, settings, steps_before=850, processes=ALONE, frozen={}, max_rows=batch
    )
    return [trainer.step().loss for _ in range(LEARNING_STEPS)]


def _captures(lab: Lab) -> dict[str, Any]:
    """Captures one forward several times, each time after its last graph is gone, and then while another thread uses
    the device. Returns whether the outputs equal the eager output, and the reserved bytes after each capture."""
    is_gpu = lab.device.type == "cuda"
    capture: Callable[[Forward], Forward] = CudaGraphs(lab.device).capture if is_gpu else lambda forward: forward
    forward = forwards(lab, lab.size.neighbours)["mixed"]
    expected, equal, beside, reserved = forward().clone(), [], [], []
    for _ in range(CAPTURES):
        replay = capture(forward)
        equal.append(torch.equal(replay(), expected))
        del replay  # the graph is gone now, and its memory can be released
        reserved.append(torch.cuda.memory_reserved() / 1e6 if is_gpu else 0.0)
    with _busy_device(lab.device):
        for _ in range(CAPTURES):
            replay = capture(forward)
            beside.append(torch.equal(replay(), expected))
    return {"equal": sum(equal), "equal_beside_work": sum(beside), "captures": CAPTURES, "reserved_mb": reserved}


@contextmanager
def _busy_device(device: torch.device) -> Iterator[None]:
    """Keeps the device busy from another thread, on a stream of its own, with allocations and synchronous copies."""
    stop, stream = threading.Event(), torch.cuda.Stream(device) if device.type == "cuda" else None

    def work() -> None:
        with torch.cuda.stream(stream):
            while not stop.is_set():
                ones = torch.ones(1024, 1024, device=device)
                (ones @ ones).sum().item()

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
