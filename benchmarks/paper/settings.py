"""Parses the options that the paper's experiments share, and loads the base that the options name."""

import argparse
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import torch

from benchmarks.report import FOLDER
from core.artifact.sampling import SamplerName, SamplingSettings, TimestepSpacing
from core.ml.evaluation.yardsticks import Judges
from core.ml.model.checkpoint import LoadedBase
from core.ml.serving.resident import load_base_on

SIZES: dict[str, dict[str, Any]] = {
    "mini": {"base": "mini", "device": "cpu", "batch_size": 16, "sampler": "dpmpp_2m", "guidance_scale": 3.0},
    "xl": {
        "base": "facebook/DiT-XL-2-256",
        "device": "cuda",
        "seeds": 1,
        "steps": 24_000,
        "at": [15_000, 30_000, 45_000, 60_000],
        "batch_size": 256,
        "micro_batch_size": 64,
        "pictures": 10_000,
        "sampler": "ddpm",
        "sampling_steps": 50,
        "timestep_spacing": "dit",
        "guidance_scale": 1.5,
    },
}
"""Default options at each size. "xl" is the DiffFit paper's setup: its training steps, batch and guidance, and the
sampler of the original DiT. The paper does not give its number of generated images."""


def parser_of(name: str, description: str | None, *, seeds: int, pictures: int) -> argparse.ArgumentParser:
    """Returns a parser with the shared options and an experiment's defaults, to which the experiment adds its own
    options."""
    parser = argparse.ArgumentParser(
        prog=f"python -m benchmarks.paper {name}",
        description=description,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--size", choices=SIZES, default="mini", help="`xl`: defaults of the paper's setup")
    parser.add_argument("--base", help="`mini`, a folder, a `.pt` or a hub id")
    parser.add_argument("--seeds", type=int, default=seeds)
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--pictures", type=int, default=pictures)
    parser.add_argument("--sampler", choices=get_args(SamplerName))
    parser.add_argument("--sampling-steps", type=int, help="what the sampler needs when not given")
    parser.add_argument("--timestep-spacing", choices=get_args(TimestepSpacing), default="trailing")
    parser.add_argument("--guidance-scale", type=float)
    parser.add_argument("--inception", type=Path, help="inception-2015-12-05.pt, to measure FID too")
    parser.add_argument("--cache", type=Path, default=Path("build/packages"), help="for the fetched sets")
    parser.add_argument("--device")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--output", type=Path, default=FOLDER)
    return parser


def parsed(parser: argparse.ArgumentParser, arguments: Sequence[str] | None) -> argparse.Namespace:
    """Returns the parsed options, completed by the defaults of their size, with an added `command` that reproduces the
    result, without the options for local folders."""
    size = parser.parse_args(arguments).size
    parser.set_defaults(**SIZES[size])
    options = parser.parse_args(arguments)
    places = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    places.add_argument("--cache")
    places.add_argument("--output")
    _, words = places.parse_known_args(arguments)
    options.command = shlex.join([*parser.prog.split(), *words])
    return options


def sampling_of(options: argparse.Namespace) -> SamplingSettings:
    chosen = {name: getattr(options, name) for name in ("sampler", "timestep_spacing", "guidance_scale")}
    steps = {} if options.sampling_steps is None else {"steps": options.sampling_steps}
    # The paper's systems are guided by their own unconditional prediction, at every timestep.
    return SamplingSettings.completed(chosen | steps, interpolates=False)


def described(sampling: SamplingSettings) -> str:
    return f"{sampling.steps} {sampling.sampler} steps with guidance {sampling.guidance_scale:g}"


def judges_of(options: argparse.Namespace) -> Judges:
    return Judges(inception=options.inception, device=torch.device(options.device))


def loaded_base(options: argparse.Namespace) -> LoadedBase:
    """Loads the base on the device and with the number of threads that the options give; on a GPU in bf16."""
    return load_base_on(options.device, options.base, threads=options.threads or 0)
