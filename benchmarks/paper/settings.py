"""What every experiment on the bundled base can be told, and the base that it loads."""

import argparse
from pathlib import Path

import torch

from benchmarks.paper.results import FOLDER
from core.model.checkpoint import LoadedBase, load_base


def parser_of(name: str, about: str | None, *, seeds: int, pictures: int) -> argparse.ArgumentParser:
    """With the defaults of an experiment; it adds what is its own."""
    parser = argparse.ArgumentParser(
        prog=f"python -m benchmarks.paper {name}",
        description=about,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--seeds", type=int, default=seeds)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--pictures", type=int, default=pictures)
    parser.add_argument("--sampling-steps", type=int, default=20)
    parser.add_argument("--guidance-scale", type=float, default=3.0)
    parser.add_argument("--cache", type=Path, default=Path("build/packages"), help="for the fetched sets")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--output", type=Path, default=FOLDER)
    return parser


def bundled_base(options: argparse.Namespace) -> LoadedBase:
    """On the device, and with the threads, of the options."""
    if options.threads:
        torch.set_num_threads(options.threads)
    return load_base("mini", device=torch.device(options.device), dtype=torch.float32)
