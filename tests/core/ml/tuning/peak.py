"""Prints the estimate of a training step's memory on the bundled base, and how much the process grew by it."""

import sys
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path

import psutil
import torch

from core.artifact.footprint import Footprint
from core.artifact.sites import PRESETS, trainable_shapes
from core.artifact.training import TrainingSettings
from core.ml.model.checkpoint import load_base
from core.ml.tuning.latents import Latents
from core.ml.tuning.methods import adapter_of
from core.ml.tuning.start import start_tensors
from core.ml.tuning.trainer import Trainer


def main(batch: int, scale: int) -> None:
    torch.set_num_threads(1)
    base = load_base("mini", device=torch.device("cpu"), dtype=torch.float32)
    config, sites = base.dit.config, PRESETS["paper"]
    footprint = Footprint.of(config, "difffit", scale, "cpu")
    at_once = footprint.images_at_once(batch, "cpu", None)
    start = start_tensors(base.dit, trainable_shapes(config, "difffit", sites, 4), torch.Generator())
    size = config.input_size * scale
    mean = torch.randn(2, 40, config.in_channels, size, size)
    latents = Latents(mean, torch.full_like(mean, 0.1), torch.arange(40) % 4)
    settings = TrainingSettings(steps=2, batch_size=batch, micro_batch_size=at_once)
    make = partial(Trainer, base.dit, start, latents, make_adapter=partial(adapter_of, sites))
    make(settings=replace(settings, batch_size=1, micro_batch_size=1)).step()  # loads what is loaded only once
    trainer = make(settings=settings)
    before = psutil.Process().memory_info().rss
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    list(islice(trainer.parts(), 3))
    lines = Path("/proc/self/status").read_text().splitlines()
    peak = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
    print(footprint.total_bytes(batch, at_once), peak - before)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
