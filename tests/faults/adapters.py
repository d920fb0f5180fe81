"""Thousands of adapters through few table slots and a small host cache: memory stays flat, images stay the same."""

import json
import subprocess
import sys
import time
from functools import partial

import psutil
import torch
from torch import Tensor

from core.artifact.sampling import SamplingSettings
from core.artifact.sites import PRESETS, trainable_shapes
from core.ml.model.bank import AdapterBank
from core.ml.model.checkpoint import LoadedBase, load_base
from core.ml.serving.cache import AdapterCache
from core.ml.serving.engine import Engine
from core.ml.serving.forwards import buckets_for
from core.ml.serving.request import ImageRequest
from core.ml.serving.runner import Runner
from core.ml.tuning.start import start_tensors
from tests.faults.stack import Outcome, Stack

SLOTS = 8
HOST_BYTES = 4 * 2**20
WARM_UP = 50
"""Adapters before memory is measured; they load threads, kernels and the cache."""
GROWTH = 32 * 2**20


def pass_slots(_: Stack, adapters: int) -> Outcome:
    """Measures in a separate process, whose memory nothing else changes."""
    started = time.monotonic()
    command = [sys.executable, "-m", "tests.faults.adapters", str(adapters)]
    figures = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    first, last = figures["first_bytes"], figures["last_bytes"]
    grown = max(0, last - first)
    return Outcome(
        f"{adapters:,} adapters through {SLOTS} slots",
        f"at most {GROWTH / 2**20:.0f} MiB more memory; earlier adapters generate the same images again",
        figures["tried"],
        figures["held"],
        int(grown > GROWTH),
        time.monotonic() - started,
        f"{first / 2**20:.0f} MiB after {WARM_UP}, {last / 2**20:.0f} MiB at the end; {figures['copies']} activations",
    )


def measure(count: int) -> dict[str, int]:
    """Generates an image with each of `count` adapters, then again with every hundredth one."""
    base = load_base("mini", device=torch.device("cpu"), dtype=torch.float32)
    bank = AdapterBank(base.dit, SLOTS)
    runner = Runner(bank, base.autoencoder, buckets_for(bank.device, SLOTS))
    engine = Engine(runner, AdapterCache(bank, HOST_BYTES), max_rows=SLOTS, max_waiting=SLOTS, training_share=0)
    engine.start()
    first_bytes, images = 0, {}
    for index in range(WARM_UP + count):
        image = _draw(engine, base, index)
        if index % 100 == 0:
            images[index] = image
        if index == WARM_UP:
            first_bytes = psutil.Process().memory_info().rss
    last_bytes = psutil.Process().memory_info().rss
    held = sum(torch.equal(_draw(engine, base, index), image) for index, image in images.items())
    engine.stop()
    figures = {"first_bytes": first_bytes, "last_bytes": last_bytes, "tried": len(images), "held": held}
    return figures | {"copies": bank.copies}


def _draw(engine: Engine, base: LoadedBase, index: int) -> Tensor:
    request = ImageRequest(
        id=str(index),
        tenant=str(index),
        adapter=f"adapter-{index}",
        class_id=index % 4,
        seeds=(index,),
        sampling=SamplingSettings(steps=1, guidance_scale=1.0),
    )
    (image,) = engine.submit(request, partial(_tensors, base, index)).result(600).images
    return image  # type: ignore[no-any-return]


def _tensors(base: LoadedBase, index: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(index)
    start = start_tensors(base.dit, trainable_shapes(base.dit.config, "difffit", PRESETS["paper"], 4), generator)
    return {name: tensor + 0.05 * torch.randn(tensor.shape, generator=generator) for name, tensor in start.items()}


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(json.dumps(measure(int(sys.argv[1]))))
