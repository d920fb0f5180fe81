"""Parses the options that the paper's experiments share, and loads the base that the options name."""

import argparse
import shlex
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.report import FOLDER
from core.ml.evaluation.yardsticks import Judges
from core.ml.model.checkpoint import LoadedBase
from core.ml.serving.resident import load_base_on


def parser_of(name: str, description: str | None, *, seeds: int, pictures: int) -> argparse.ArgumentParser:
    """Returns a parser with the shared options and an experiment's defaults, to which the experiment adds its own
    options."""
    parser = argparse.ArgumentParser(
        prog=f"python -m benchmarks.paper {name}",
        description=description,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--seeds", type=int, default=seeds)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--pictures", type=int, default=pictures)
    parser.add_argument("--sampling-steps", type=int, default=20)
    parser.add_argument("--guidance-scale", type=float, default=3.0)
    parser.add_argument("--inception", type=Path, help="inception-2015-12-05.pt, to measure FID too")
    parser.add_argument("--cache", type=Path, default=Path("build/packages"), help="for the fetched sets")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--output", type=Path, default=FOLDER)
    return parser


def parsed(parser: argparse.ArgumentParser, arguments: Sequence[str] | None) -> argparse.Namespace:
    """Returns the parsed options, with an added `command` that reproduces the result, without the options for local
    folders."""
    options = parser.parse_args(arguments)
    places = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    places.add_argument("--cache")
    places.add_argument("--output")
    _, words = places.parse_known_args(arguments)
    options.command = shlex.join([*parser.prog.split(), *words])
    return options


def judges_of(options: argparse.Namespace) -> Judges:
    return Judges(inception=options.inception, device=torch.device(options.device))


def loaded_base(options: argparse.Namespace, reference: str = "mini") -> LoadedBase:
    """Loads the base on the device and with the number of threads that the options give; on a GPU in bf16."""
    return load_base_on(options.device, reference, threads=options.threads or 0)
