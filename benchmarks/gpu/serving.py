"""Measures the engine without the REST API: guided images, each with a separate adapter, compared with the bare forward
of the same batch size."""

import time
from collections.abc import Sequence
from typing import Any

import torch

from benchmarks.gpu.device import graphed, milliseconds, synchronize
from benchmarks.gpu.forwards import forwards
from benchmarks.gpu.lab import Lab
from benchmarks.gpu.profiling import busy_seconds, profiled
from benchmarks.gpu.session import recorded
from benchmarks.serving.load import Serving, request
from core.ml.serving.batches import Computation, Graphs
from core.ml.serving.request import ImageRequest


def measure(lab: Lab, result: dict[str, Any]) -> None:
    """Measures the generation of images with the main batch size and with twice that size, for each number of sampling
    steps."""
    result["decodes"] = lab.has_diffusers
    result["images"] = lab.size.images
    result["runs"] = []
    for steps in lab.size.steps:
        for rows in (lab.size.main_rows, 2 * lab.size.main_rows):
            run: dict[str, Any] = {"rows": rows, "steps": steps}
            result["runs"].append(run)
            with recorded(run):
                run |= _run(lab, rows, steps)


class NoGraphs:
    """Replacement for the capture of CUDA graphs, with which every batch is launched kernel by kernel."""

    def capture(self, compute: Computation) -> Computation:
        return compute

    def reset(self) -> None:
        pass


def measure_start(lab: Lab, result: dict[str, Any]) -> None:
    """Measures the seconds until a new engine's first image, with CUDA graphs and without, and the seconds to capture
    all batch sizes."""
    rows, steps = lab.size.main_rows, lab.size.steps[0]
    result["steps"] = steps
    for name, graphs in (("with graphs", None), ("without", NoGraphs())):
        with _serving(lab, rows, graphs) as serving:
            result[name] = serving.seconds(_requests(lab, steps)[:1])
    serving = _serving(lab, 2 * rows, None if lab.device.type == "cuda" else NoGraphs())
    serving.cache.close()
    result["batch_sizes"], result["captured"] = len(serving.runner.forwards.sizes.all), 0
    synchronize(lab.device)
    started = time.perf_counter()
    while serving.runner.forwards.uncaptured:
        serving.runner.forwards.capture_next()
        result["captured"] += 1
    synchronize(lab.device)
    result["capturing_seconds"] = time.perf_counter() - started


def measure_idle(lab: Lab, result: dict[str, Any]) -> None:
    """Measures the fraction of a run in which the device is idle, from a profile of its kernels."""
    rows, steps = lab.size.main_rows, lab.size.steps[0]
    with _serving(lab, rows) as serving:
        serving.seconds(_requests(lab, 2))
        requests = _requests(lab, steps)
        seconds: list[float] = []
        events = profiled(lambda: seconds.append(serving.seconds(requests)), lab.device)
    result |= {"rows": rows, "steps": steps, "seconds": seconds[0]}
    result["idle"] = 1 - busy_seconds(events) / seconds[0]


def _run(lab: Lab, rows: int, steps: int) -> dict[str, Any]:
    started = time.perf_counter()
    with _serving(lab, rows) as serving:
        build_seconds = time.perf_counter() - started
        first = serving.seconds(_requests(lab, steps)[:1])
        serving.seconds(_requests(lab, 2))
        seconds = serving.seconds(_requests(lab, steps))
        alone = serving.seconds(_requests(lab, steps)[:1])
    evaluations = 2 * lab.size.images * steps / seconds
    with torch.inference_mode():
        forward = graphed(forwards(lab, rows)["mixed"], lab.device)
        bare = 1000 * rows / milliseconds(forward, lab.device, lab.size.seconds)
    return {
        "seconds": seconds,
        "images_a_second": lab.size.images / seconds,
        "evaluations_a_second": evaluations,
        "bare_evaluations_a_second": bare,
        "over_bare": evaluations / bare,
        "seconds_to_make": build_seconds,
        "first_image_seconds": first,
        "one_image_seconds": alone,
    }


def _serving(lab: Lab, rows: int, graphs: Graphs | None = None) -> Serving:
    domains = lab.domains(lab.size.images)
    return Serving(lab.subject(), domains, max_rows=rows, slots=max(rows, lab.size.images), graphs=graphs)


def _requests(lab: Lab, steps: int) -> Sequence[ImageRequest]:
    return [request(str(index), steps=steps, seeds=(index,)) for index in range(lab.size.images)]
