"""Runs section 6 of the DiffFit paper at a small size: ControlNet with full training, with DiffFit and with LoRA.

The hints are edge maps of drawings. All systems control the same frozen UNet, which `python -m recipes.unet` trains on
four in five of the emoji; images are generated for the edges of the others. Each cell is written as soon as it is done,
and a repeated run continues after the last one. Parameters at Stable Diffusion's size are counted without weights;
`python -m benchmarks.controlnet.smoke` loads and trains that size.
"""

import argparse
import shlex
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from benchmarks.controlnet.bench import BEST, NO_HINT, Bench, Budget, Model, System
from benchmarks.controlnet.counts import controlnet_counts
from benchmarks.controlnet.edges import edge_maps
from benchmarks.paper.record import Record
from benchmarks.paper.settings import described
from benchmarks.report import FOLDER, markdown_table, write_markdown
from core.artifact.sampling import SamplingSettings
from core.ml.evaluation.yardsticks import DISTANCES
from core.ml.tuning.latents import image_grid, to_image
from recipes.autoencoder import unit

SYSTEMS = (
    System("ControlNet", "full", 1e-3),
    System("ControlNet + DiffFit", "difffit", 3e-3),
    System("ControlNet + LoRA", "lora", 3e-3),
)
TITLE = "Section 6: ControlNet with full training, DiffFit and LoRA"
EDGES = "edge F-score"
FOLLOWS = 0.25
"""Least fraction of the way from no hint to the drawings themselves at which full training counts as following."""
IN_GRID = 12
"""Number of hints in the grid."""


def main(arguments: Sequence[str] | None = None) -> None:
    options = _options(arguments)
    if not (options.unet / "prompts.safetensors").is_file():
        raise SystemExit(f"There is no UNet in {options.unet}. Run python -m recipes.drawings and python -m "
                         "recipes.unet first.")  # fmt: skip
    torch.set_num_threads(options.threads)
    sampling = SamplingSettings(steps=options.sampling_steps, sampler="dpmpp_2m", guidance_scale=options.guidance_scale)
    budget = Budget(options.steps, options.batch_size, options.pictures, sampling)
    bench = Bench.of(Model.load(options.unet, options.autoencoder), options.drawings, budget, options.adapters)
    record = Record(options.output / "controlnet.json", bench.identity, "cells", options.command)
    console = Console(stderr=True)
    if not record.rows:
        record.add(bench.references())
    wanted = [(system, seed) for seed in range(options.seeds) for system in SYSTEMS
              if not record.has({"system": system.name, "seed": seed})]  # fmt: skip
    console.print(f"{len(wanted)} of {options.seeds * len(SYSTEMS)} cells are not measured yet.")
    for place, (system, seed) in enumerate(wanted, 1):
        console.print(f"{place} of {len(wanted)}: {system.name}, seed {seed}")
        record.add([{"system": system.name, "seed": seed, **bench.run(system, seed)}])
        write(record, bench)
    write(record, bench)
    draw_grid(bench, options.output / "controlnet.png")
    console.print(f"{record.path}, {record.path.with_suffix('.md')}, {record.path.with_suffix('.png')}")


def write(record: Record, bench: Bench) -> None:
    header, cells, budget = record.write(), record.rows, bench.budget
    text = (
        f"The UNet is frozen. {budget.steps} steps of {budget.batch_size} training drawings with their edge maps, then "
        f"{len(bench.wanted)} images of {described(budget.sampling)} for the edges of drawings that neither the UNet "
        "nor a ControlNet has seen. The edge F-score compares the edges of an image with the hint, with a tolerance of "
        "one pixel; 1 is best. Distances compare the images with all unseen drawings; they are no FIDs. Means over the "
        "seeds, ± their standard deviation. Seconds are the processor's, of the training steps. Megabytes are what a "
        "step saves for its backward pass, the gradients and AdamW's moments; without weights."
    )
    parts = [
        text,
        _table(cells),
        *_comparison(cells),
        f"![hints and generated images]({record.path.stem}.png)",
        f"Columns, three times: {', '.join(_columns())}; all of seed 0.",
        "## At Stable Diffusion's size",
        _counted(),
    ]
    write_markdown(record.path.with_suffix(".md"), TITLE, header, parts)


def draw_grid(bench: Bench, path: Path) -> None:
    """Draws the hints, the images without a hint, and those of each system's first adapter."""
    wanted = bench.wanted
    wanted = wanted.subset(((torch.arange(IN_GRID) + 0.5) * len(wanted) / IN_GRID).long())
    hints = edge_maps(wanted.pixels)
    networks = [None, *(bench.loaded(system, 0) for system in SYSTEMS)]
    drawn = [bench.model.draw(network, wanted.labels, hints, bench.budget.sampling, "grid") for network in networks]
    columns = [(~hints).expand(-1, 3, -1, -1) * 255, wanted.pixels, *drawn]
    rows = torch.stack([unit(column) for column in columns], 1).flatten(0, 1)
    image_grid([to_image(pixels) for pixels in rows], columns=3 * len(columns)).save(path)


def _columns() -> list[str]:
    return ["hint", "its drawing", "no hint", *(system.name for system in SYSTEMS)]


def _table(cells: Sequence[dict[str, Any]]) -> str:
    names = list(dict.fromkeys(cell["system"] for cell in cells))
    scores = [name for name in (EDGES, *DISTANCES) if any(name in cell for cell in cells)]
    full = _values(cells, SYSTEMS[0].name, "trainable")
    rows = []
    for name in names:
        trains, seconds, megabytes = (_values(cells, name, key) for key in ("trainable", "seconds", "megabytes"))
        rows.append((
            name,
            f"{trains[0]:,}" if trains else "",
            f"{trains[0] / full[0]:.1%}" if trains and full else "",
            *(_mean(_values(cells, name, score), 3 if score == EDGES else 2) for score in scores),
            f"{statistics.mean(seconds):.0f}" if seconds else "",
            f"{megabytes[0]:.0f}" if megabytes else "",
        ))  # fmt: skip
    return markdown_table(("", "trains", "of full", *scores, "seconds", "MB"), rows)


def _comparison(cells: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Yields sentences that compare the edge scores with those without any hint, and, if full training follows its
    hints, with full training's."""
    means = {cell["system"]: statistics.mean(_values(cells, cell["system"], EDGES)) for cell in cells}
    systems = [system.name for system in SYSTEMS if system.name in means]
    none, best, full = means[NO_HINT], means[BEST], means.get(SYSTEMS[0].name)
    ways = [f"{name} {(means[name] - none) / (best - none):.0%}" for name in systems]
    yield f"Of the way from no hint to the drawings themselves: {', '.join(ways)}."
    if full is None or full - none < FOLLOWS * (best - none):
        yield "**Full training does not follow its hints yet, so the edge scores do not compare the methods.**"
    else:
        yield f"Edge F-score relative to full training: {', '.join(f'{n} {means[n] / full:.0%}' for n in systems[1:])}."


def _counted() -> str:
    counts = controlnet_counts()
    return (
        f"ControlNet has {counts.total:,} parameters; DiffFit trains {counts.trainable:,} "
        f"({counts.trainable / counts.total:.2%}), {counts.zero_convolutions:,} of them in the 13 zero convolutions. "
        "The paper's Table 5 prints 361 M and 11.2 M ([parameters](parameters.md))."
    )


def _values(cells: Sequence[dict[str, Any]], system: str, key: str) -> list[Any]:
    return [cell[key] for cell in cells if cell["system"] == system and key in cell]


def _mean(values: Sequence[float], digits: int) -> str:
    if not values:
        return ""
    spread = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.{digits}f}{spread}"


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.paper controlnet",
        description=__doc__,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--unet", type=Path, default=Path("build/unet"), help="folder that recipes.unet wrote")
    parser.add_argument("--drawings", type=Path, default=Path("build/drawings"))
    parser.add_argument("--autoencoder", type=Path, default=Path("core/ml/bundled/mini/vae"))
    parser.add_argument("--adapters", type=Path, default=Path("build/controlnet"), help="where adapters are saved")
    parser.add_argument("--output", type=Path, default=FOLDER)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--pictures", type=int, default=192)
    parser.add_argument("--sampling-steps", type=int, default=12)
    parser.add_argument("--guidance-scale", type=float, default=2.0)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args(arguments)
    measured = ("seeds", "steps", "batch_size", "pictures", "sampling_steps", "guidance_scale")
    words = [f"--{name.replace('_', '-')}={getattr(options, name)}" for name in measured
             if getattr(options, name) != parser.get_default(name)]  # fmt: skip
    options.command = shlex.join([*parser.prog.split(), *words])
    return options
