"""Trains DiffFit + ControlNet for a step at Stable Diffusion's size, in bf16: `python -m benchmarks.controlnet.smoke`.

It loads a UNet and a ControlNet in diffusers' format, by default random weights that it writes first, counts what
trains, makes a step, and checks that frozen weights are unchanged and that the saved adapter gives the same output.
"""

import argparse
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.controlnet.adapter import ControlNetAdapter
from benchmarks.controlnet.loading import load_controlnet, load_unet
from benchmarks.report import show, write_json

SIDE, TEXT_TOKENS = 64, 77


def main(arguments: list[str] | None = None) -> None:
    options = _options(arguments)
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory(dir=options.folder) as scratch:
        unet_folder, controlnet_folder = options.unet, options.controlnet
        if unet_folder is None:
            unet_folder, controlnet_folder = Path(scratch, "unet"), Path(scratch, "controlnet")
            write_random(unet_folder, controlnet_folder)
        figures = check(unet_folder, controlnet_folder, Path(scratch, "adapter.safetensors"))
    figures["peak_gigabytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    show("\n".join(f"{name.replace('_', ' ')}: {value:,}" for name, value in figures.items()))
    if options.json:
        write_json(options.json, figures)


def write_random(unet_folder: Path, controlnet_folder: Path) -> None:
    """Writes a UNet of Stable Diffusion 1.5's shape with random weights, and a ControlNet that starts from it."""
    from diffusers import ControlNetModel, UNet2DConditionModel

    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        unet: Any = UNet2DConditionModel(cross_attention_dim=768)
        unet.save_pretrained(unet_folder)
        ControlNetModel.from_unet(unet).to(torch.bfloat16).save_pretrained(controlnet_folder)
    finally:
        torch.set_default_dtype(before)


def check(unet_folder: Path, controlnet_folder: Path, path: Path) -> dict[str, Any]:
    """Makes one training step on random data and saves the adapter at `path`. Returns counts and seconds. Raises
    SystemExit if a frozen weight changed, or if the saved adapter has another output."""
    started = time.perf_counter()
    unet = load_unet(unet_folder, torch.bfloat16)
    adapter = ControlNetAdapter(load_controlnet(controlnet_folder, unet, torch.bfloat16), "difffit")
    loaded = time.perf_counter()
    before = adapter.base_digest()
    inputs = batch(unet.config.in_channels, unet.config.cross_attention_dim)
    optimizer = torch.optim.AdamW(adapter.trainables.values(), 1e-3)
    ready = time.perf_counter()
    loss = (output(unet, adapter.network, *inputs).float() - 1).square().mean()
    loss.backward()
    optimizer.step()
    stepped = time.perf_counter()
    if adapter.base_digest() != before or any(parameter.grad is not None for parameter in unet.parameters()):
        raise SystemExit("A frozen weight changed or got a gradient.")
    adapter.save(path)
    again = ControlNetAdapter.load(path, load_controlnet(controlnet_folder, unet, torch.bfloat16))
    with torch.no_grad():
        if not torch.equal(output(unet, adapter.network, *inputs), output(unet, again.network, *inputs)):
            raise SystemExit("The saved adapter gives another output than the trained one.")
    trainable = sum(parameter.numel() for parameter in adapter.trainables.values())
    return {
        "unet_parameters": sum(parameter.numel() for parameter in unet.parameters()),
        "controlnet_parameters": sum(parameter.numel() for parameter in adapter.parameters.values()),
        "trainable": trainable,
        "adapter_megabytes": path.stat().st_size / 1e6,
        "seconds_to_load": loaded - started,
        "seconds_of_the_step": stepped - ready,
    }


def batch(channels: int, text_width: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Returns one random latent with its timestep, text features and hint."""
    generator = torch.Generator().manual_seed(1)
    shapes = (1, channels, SIDE, SIDE), (1, TEXT_TOKENS, text_width), (1, 3, 8 * SIDE, 8 * SIDE)
    x, text, hint = (torch.randn(shape, generator=generator).bfloat16() for shape in shapes)
    return x, torch.tensor([500]), text, hint


def output(unet: Any, network: Any, x: Tensor, t: Tensor, text: Tensor, hint: Tensor) -> Tensor:
    down, middle = network(x, t, text, hint, return_dict=False)
    predicted: Tensor = unet(
        x, t, text, down_block_additional_residuals=down, mid_block_additional_residual=middle
    ).sample
    return predicted


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--unet", type=Path, help="UNet or pipeline folder; random weights without it")
    parser.add_argument("--controlnet", type=Path, help="ControlNet folder, together with --unet")
    parser.add_argument("--folder", type=Path, help="where random weights are written for the time being (2.5 GB)")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args(arguments)
    if (options.unet is None) != (options.controlnet is None):
        parser.error("--unet and --controlnet need each other")
    return options


if __name__ == "__main__":
    main()
