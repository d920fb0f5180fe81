"""`python -m benchmarks.bundled_base`: measures the bundled base, prints a table, and writes JSON and sheets of images.

Run `python -m recipes.drawings` first. Generating images takes most of the time: minutes on a CPU.
"""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import get_args

import torch
from rich.console import Console

from benchmarks.bundled_base import quality
from benchmarks.bundled_base.domain import Domain
from benchmarks.bundled_base.pictures import Artist
from benchmarks.bundled_base.quality import Quality
from benchmarks.report import Measure, Table, hardware, show, write_json
from core.artifact.sampling import SamplerName, SamplingSettings
from core.ml.bundled import mini_base_folder
from core.ml.evaluation.classifier import IMAGE_SIZE
from core.ml.evaluation.drawings import read_drawings
from core.ml.evaluation.yardsticks import Judges
from core.ml.model.checkpoint import LoadedBase

PARTS = ("cost", "quality", "domain")


def main(arguments: Sequence[str] | None = None) -> None:
    options = _options(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    options.output.mkdir(parents=True, exist_ok=True)
    judges = Judges(options.classifier, options.inception)
    progress = Console(stderr=True)
    if options.inception is None:
        progress.print("No FID: that needs Inception's weights, --inception inception-2015-12-05.pt")
    base, loading = quality.loading(options.base)
    figures: list[Measure] = []
    for figure in _measure(options, base, loading, judges):
        figures.append(figure)
        progress.print(f"{figure.name}: {figure.value_text} {figure.verdict} {figure.note}")
    show(Table.of_measures(figures, f"{base.description.name} {base.description.digest[:12]}"))
    facts = {
        "base": base.description.digest,
        "classifier": judges.digest,
        "sampling": asdict(_sampling(options)),
        "hardware": hardware(),
    }
    write_json(options.output / "figures.json", {**facts, "figures": [figure.to_json() for figure in figures]})
    progress.print(f"{options.output}: figures.json and pictures")


def _measure(options: argparse.Namespace, base: LoadedBase, loading: Measure, judges: Judges) -> Iterator[Measure]:
    sampling = _sampling(options)
    if "cost" in options.only:
        yield quality.size(options.base)
        yield loading
        yield quality.drawing(base, sampling)
    artist = Artist.of_base(base, sampling)
    if "quality" in options.only:
        drawings = read_drawings(options.drawings, IMAGE_SIZE)
        yield from Quality(artist, judges, drawings, options.count, options.output).figures()
    if "domain" in options.only:
        count, steps = options.domain_count, options.finetune_steps
        domain = Domain(artist, judges, options.openmoji, count=count, steps=steps, output=options.output)
        yield from domain.figures()


def _sampling(options: argparse.Namespace) -> SamplingSettings:
    chosen = {name: getattr(options, name) for name in ("sampler", "steps", "guidance_scale")}
    return SamplingSettings.completed({name: value for name, value in chosen.items() if value is not None})


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.bundled_base",
        description=__doc__,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--base", type=Path, default=mini_base_folder(), help="folder of the base to measure")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), help="these parts alone")
    parser.add_argument("--count", type=int, default=512, help="pictures of the base")
    parser.add_argument("--domain-count", type=int, default=256, help="pictures of base and domain, of 8 classes")
    parser.add_argument("--finetune-steps", type=int, default=300, help="the demo's number")
    parser.add_argument("--sampler", choices=get_args(SamplerName), help="the default of requests when not given")
    parser.add_argument("--steps", type=int, help="sampling steps; what the sampler needs when not given")
    parser.add_argument("--guidance-scale", type=float)
    parser.add_argument("--drawings", type=Path, default=Path("build/drawings"))
    parser.add_argument("--openmoji", type=Path, default=Path("build/openmoji"))
    parser.add_argument("--classifier", type=Path, help="folder of another one than core/ml/evaluation has")
    parser.add_argument("--inception", type=Path, help="inception-2015-12-05.pt, to measure FID too")
    parser.add_argument("--threads", type=int, help="of torch; all cores when not given")
    parser.add_argument("--output", type=Path, default=Path("build/bundled-base"))
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
