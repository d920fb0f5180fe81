"""Runs a full-size DiT-XL/2 with random weights on the CPU once, to check that it works:
`python -m benchmarks.xl_smoke`.

A child process writes a random DiT-XL/2 and an autoencoder in diffusers' format, and the output of diffusers' own
forward. This process loads that folder as it loads a user's base, compares its forward with diffusers', makes one
DiffFit training step, and generates one image in two sampling steps.
"""

import argparse
import multiprocessing
import platform
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from benchmarks.report import Table, show, write_json
from core.artifact.sampling import SamplingSettings
from core.artifact.sites import PRESETS, trainable_shapes
from core.artifact.training import TrainingSettings
from core.ml.model.bank import AdapterBank
from core.ml.model.checkpoint import LoadedBase, load_base
from core.ml.serving.cache import AdapterCache
from core.ml.serving.engine import Engine
from core.ml.serving.request import ImageRequest
from core.ml.serving.runner import Runner
from core.ml.tuning.latents import Latents
from core.ml.tuning.start import start_tensors
from core.ml.tuning.trainer import Trainer

TOLERANCE = 1e-4
"""Maximum difference from diffusers' output, relative to the standard deviation of that output."""
MEMORY_LIMIT = 12 * 2**30
CLASSES = 101
Result = TypeVar("Result")


def main() -> None:
    options = _options()
    rows: dict[str, float] = {}
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        _timed(rows, "write the base, diffusers' forward (other process)", lambda: _in_another_process(folder))
        cpu, fp32 = torch.device("cpu"), torch.float32
        load: Callable[[], LoadedBase] = lambda: load_base(  # noqa: E731
            folder, device=cpu, dtype=fp32, timestep_convention="diffusers"
        )
        base = _timed(rows, "load, check, digest", load)
        difference = _timed(rows, "forward of 2 images", lambda: compare(base, folder))
        report = _timed(rows, "one DiffFit step of 2 images", lambda: finetune_step(base))
        _timed(rows, "draw 1 image, 2 guided steps", lambda: draw(base, report["tensors"]))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    writer_peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    facts = {
        "parameters": base.description.parameters,
        "trainable_parameters": report["trainable"],
        "relative_difference": difference,
        "loss": report["loss"],
        "peak_bytes": peak,
        "writer_peak_bytes": writer_peak,
        "hardware": f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}",
    }
    show_result(rows, facts)
    if options.json:
        write_json(options.json, {"seconds": rows, **facts})
    if difference > TOLERANCE or max(peak, writer_peak) > MEMORY_LIMIT:
        raise SystemExit("A limit does not hold; see the figures above.")


def _in_another_process(folder: Path) -> None:
    writer = multiprocessing.get_context("spawn").Process(target=write_random_base, args=(folder,))
    writer.start()
    writer.join()
    if writer.exitcode:
        raise SystemExit(f"The process that writes the random base ended with {writer.exitcode}.")


def write_random_base(folder: Path) -> None:
    """Writes a random DiT-XL/2, and a random autoencoder of Stable Diffusion's shape, in diffusers' format, and the
    output of diffusers' forward as the file `expected`."""
    from diffusers import AutoencoderKL, DiTTransformer2DModel

    torch.manual_seed(0)
    network: Any = DiTTransformer2DModel(num_layers=28, sample_size=32, out_channels=8, norm_eps=1e-5)
    network.eval()
    first = network.transformer_blocks[0].norm1.emb
    for block in network.transformer_blocks[1:]:
        block.norm1.emb.load_state_dict(first.state_dict())  # as in the public weights: 28 equal embedders
    network.save_pretrained(folder / "transformer")
    x, t, y = batch()
    with torch.inference_mode():
        save_file({"output": network(x, timestep=t, class_labels=y).sample.contiguous()}, folder / "expected")
    del network
    coder: Any = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(128, 256, 512, 512),
        layers_per_block=2,
        latent_channels=4,
        sample_size=256,
    )
    coder.save_pretrained(folder / "vae")


def batch() -> tuple[Tensor, Tensor, Tensor]:
    noise = torch.randn(2, 4, 32, 32, generator=torch.Generator().manual_seed(1))
    return noise, torch.tensor([17, 903]), torch.tensor([3, 1000])


def compare(base: LoadedBase, folder: Path) -> float:
    expected = load_file(folder / "expected")["output"]
    with torch.inference_mode():
        output = base.dit(*batch())
    return float((output - expected).abs().max() / expected.std())


def finetune_step(base: LoadedBase) -> dict[str, Any]:
    """Makes one DiffFit training step with the preset `paper` and 101 classes on random latents. Returns the adapter's
    tensors, the loss, and the number of trainable parameters."""
    generator = torch.Generator().manual_seed(2)
    mean = torch.randn(2, 4, 4, 32, 32, generator=generator)
    latents = Latents(mean, torch.full_like(mean, 0.1), torch.tensor([0, 1, 2, 3]))
    shapes = trainable_shapes(base.dit.config, "difffit", PRESETS["paper"], CLASSES)
    start = start_tensors(base.dit, shapes, generator)
    trainer = Trainer(base.dit, start, latents, TrainingSettings(steps=1, batch_size=2, held_out_fraction=0))
    report = trainer.step()
    return {"tensors": trainer.averaged, "loss": report.loss, "trainable": trainer.parameters.numel()}


def draw(base: LoadedBase, tensors: dict[str, Tensor]) -> None:
    bank = AdapterBank(base.dit, slots=2)
    runner = Runner(bank, base.autoencoder, buckets=(2,))
    cache = AdapterCache(bank, host_bytes=2**30)
    engine = Engine(runner, cache, max_rows=2, max_waiting=10, training_share=0)
    engine.start()
    request = ImageRequest(
        id="one", tenant="one", adapter="adapter", class_id=5, seeds=(0,), sampling=SamplingSettings(steps=2)
    )
    (image,) = engine.submit(request, lambda: tensors).result().images
    engine.stop()
    if tuple(image.shape) != (256, 256, 3):
        raise SystemExit(f"the image has shape {tuple(image.shape)}")


def show_result(rows: dict[str, float], facts: dict[str, Any]) -> None:
    seconds = [(name, f"{value:.1f}") for name, value in rows.items()]
    show(
        Table(("step", "seconds"), seconds, f"DiT-XL/2, random weights, {facts['hardware']}"),
        f"parameters {facts['parameters']:,}, trainable {facts['trainable_parameters']:,}",
        f"largest difference from diffusers {facts['relative_difference']:.1e} of its output's deviation",
        f"peak memory {facts['peak_bytes'] / 1e9:.1f} GB here, {facts['writer_peak_bytes'] / 1e9:.1f} GB there",
    )


def _timed(rows: dict[str, float], name: str, action: Callable[[], Result]) -> Result:
    started = time.perf_counter()
    result = action()
    rows[name] = time.perf_counter() - started
    return result


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="write the figures here too")
    parser.add_argument("--folder", type=Path, help="where the random base is written for the time being (6 GB)")
    return parser.parse_args()


if __name__ == "__main__":
    main()
