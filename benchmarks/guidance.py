"""Compares sampling settings for fine-tuned domains: the adapter's scale in the unconditional prediction, the guidance
scale, the guided timesteps, and samplers with their numbers of steps.

It fine-tunes the bundled base on real domains with several seeds, generates images with each setting through the
serving engine, and scores the images against held-out images, which no fine-tune has seen. A repeated run continues
after the last cell.
"""

import argparse
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from safetensors.torch import load_file, save_file
from torch import Tensor

from benchmarks.bundled_base.finetuning import fine_tuned
from benchmarks.bundled_base.pictures import alike, served, serving
from benchmarks.paper import domains
from benchmarks.paper.domains import Domain
from benchmarks.paper.record import Record
from benchmarks.report import FOLDER, markdown_table, mean_text, write_markdown
from core.artifact.sampling import EVERY_TIMESTEP, SamplerName, SamplingSettings
from core.artifact.sites import PRESETS
from core.artifact.training import DEFAULT_TRAINING
from core.ml.evaluation.yardsticks import DISTANCES, Judges, small
from core.ml.model.checkpoint import LoadedBase
from core.ml.serving.resident import Resident, load_base_on

ADAPTER_SCALES = (0.0, 0.25, 0.5, 0.75, 1.0)
GUIDANCE_SCALES = (1.5, 2.0, 3.0, 4.0)
MIDDLE = (200, 800)
AUTOGUIDANCE: dict[str, Any] = {"guidance_scale": 3.0, "guidance_adapter_scale": 0.75}
SAMPLERS: tuple[tuple[SamplerName, int], ...] = (
    ("ddim", 50),
    ("ddim", 25),
    ("dpmpp_2m", 25),
    ("dpmpp_2m", 20),
    ("dpmpp_2m", 15),
    ("dpmpp_2m", 10),
)
PARTS = ("guidance", "samplers", "learned")
HIGHEST, DISTILL_STEPS = 3.0, DEFAULT_TRAINING.distill_steps
"""Highest learned guidance scale, and the number of steps that learn it, after the other training steps."""

Cell = dict[str, Any]


@dataclass(frozen=True)
class Studio:
    """Setup that all cells share: base, scoring networks, folder for the trained adapters, and the numbers of training
    steps and images."""

    base: LoadedBase
    judges: Judges
    folder: Path
    steps: int
    pictures: int

    def adapter(self, domain: Domain, seed: int, learned: bool) -> dict[str, Tensor]:
        """Returns the adapter tensors of a domain's fine-tune with a seed, with learned guidance if asked for. The
        fine-tune runs only if the folder does not contain its adapter yet."""
        digest, kind = self.base.description.digest[:12], "-learned" if learned else ""
        path = self.folder / f"{digest}-{domain.name.replace(' ', '-')}-{self.steps}-{seed}{kind}.safetensors"
        if not path.is_file():
            settings = replace(DEFAULT_TRAINING, steps=self.steps, seed=seed, evaluate_every=0, keep="last")
            if learned:
                settings = replace(settings, steps=self.steps + DISTILL_STEPS, distill_guidance=HIGHEST)
            outcome = fine_tuned(
                self.base,
                domain.class_names,
                domain.seen,
                "difffit",
                PRESETS["paper"],
                training=settings,
                on_event=lambda _: None,
            )
            path.parent.mkdir(parents=True, exist_ok=True)
            save_file({name: tensor.contiguous() for name, tensor in outcome.tensors.items()}, path)
        return load_file(path)

    def score(self, resident: Resident, domain: Domain, seed: int, sampling: SamplingSettings) -> Cell:
        """Generates images of the domain's classes with the sampling settings. Returns the distances to held-out
        images, the fraction of images that the classifier assigns to their class, and the model evaluations per
        image."""
        labels = alike(domain.held_out.labels, self.pictures)
        learned = sampling.learned_guidance > 0
        adapter = f"{domain.name}-{seed}-{learned}", partial(self.adapter, domain, seed, learned)
        pixels, evaluations = served(resident, labels, sampling, adapter, first_seed=10_000 * seed)
        classes = self.judges.classifier.class_names
        expected = torch.tensor([classes.index(domain.class_names[label]) for label in labels.tolist()])
        judged = self.judges.classifier.judge(small(pixels)).classes
        return {
            **{each.name: each.distance(pixels, domain.held_out.pixels) for each in self.judges.yardsticks},
            "agreement": (judged == expected).float().mean().item(),
            "evaluations": evaluations,
        }


def settings_of(part: str) -> Iterator[SamplingSettings]:
    """Yields the sampling settings that a part of the benchmark compares.

    "guidance": no guidance, then each guidance scale with each adapter scale, at all timesteps and at the middle ones.
    "samplers": each sampler and number of steps, with classifier-free guidance and against a weaker version.
    "learned": each guidance scale up to the highest learned one, in one model evaluation.
    """
    if part == "learned":
        for scale in GUIDANCE_SCALES:
            if scale <= HIGHEST:
                yield SamplingSettings.completed({"guidance_scale": scale}, HIGHEST)
        return
    if part == "samplers":
        for (sampler, steps), guidance in product(SAMPLERS, ({}, AUTOGUIDANCE)):
            yield SamplingSettings(sampler=sampler, steps=steps, **guidance)
        return
    yield SamplingSettings.completed({"guidance_scale": 1.0}, interpolates=False)
    for interval, adapter_scale, scale in product((EVERY_TIMESTEP, MIDDLE), ADAPTER_SCALES, GUIDANCE_SCALES):
        chosen = {"guidance_scale": scale, "guidance_adapter_scale": adapter_scale, "guidance_interval": interval}
        yield SamplingSettings.completed(chosen)


def main(arguments: Sequence[str] | None = None) -> None:
    options = _options(arguments)
    base = load_base_on(options.device, "mini", threads=options.threads or 0)
    judges = Judges(device=torch.device(options.device))
    studio = Studio(base, judges, options.cache.parent / "guidance", options.training_steps, options.pictures)
    budget = {name: getattr(options, name) for name in ("training_steps", "pictures")}
    identity = {"base": base.description.digest, **judges.digests, "budget": budget}
    record = Record(options.output / "guidance.json", identity, "cells", "python -m benchmarks.guidance")
    # Cells of an earlier release lack newer settings, which had their defaults.
    record.rows = [asdict(SamplingSettings()) | cell for cell in record.rows]
    loaded = [domains.load(name, options.cache) for name in options.domains]
    console = Console(stderr=True)
    settings = [setting for part in options.parts for setting in settings_of(part)]
    cells = list(product(range(options.seeds), loaded, settings))
    with serving(base) as resident:
        for index, (seed, domain, sampling) in enumerate(cells, 1):
            key = {"domain": domain.name, "seed": seed, **asdict(sampling)}
            key["guidance_interval"] = list(sampling.guidance_interval)
            if not record.has(key):
                console.print(f"{index} of {len(cells)}: {domain.name}, seed {seed}, {_name(key)}")
                record.add([key | studio.score(resident, domain, seed, sampling)])
                header = record.write()
                write_markdown(record.path.with_suffix(".md"), "Guidance", header, page(record.rows, budget))
    console.print(f"{record.path}, {record.path.with_suffix('.md')}")


def page(cells: Sequence[Cell], budget: dict[str, int]) -> list[str]:
    """Returns the paragraphs and tables of the result page."""
    names = list(dict.fromkeys(cell["domain"] for cell in cells))
    yardsticks = [name for name in DISTANCES if name in cells[0]]
    groups: dict[str, list[Cell]] = {}
    for cell in cells:
        groups.setdefault(_name(cell), []).append(cell)
    rows = [
        (
            name,
            *(
                mean_text([cell[yardstick] for cell in group if cell["domain"] == domain])
                for yardstick, domain in product(yardsticks, names)
            ),
            f"{100 * statistics.mean(cell['agreement'] for cell in group):.0f} %",
            f"{statistics.mean(cell['evaluations'] for cell in group):.0f}",
        )
        for name, group in groups.items()
    ]
    head = ("guided against, scale", *(f"{yardstick}, {domain}" for yardstick, domain in product(yardsticks, names)))
    text = (
        f"Fine-tunes of {budget['training_steps']} steps on 32 images, then {budget['pictures']} images for "
        "each cell. Distances are to drawings that no fine-tune has seen: means over "
        "the seeds, ± their standard deviation. Agreement is the fraction of images that the classifier assigns to "
        "their class; evaluations are model evaluations per image. The first column gives the scale of the adapter "
        "in the unconditional prediction (1 is classifier-free guidance, 0 the base), the guidance scale, the guided "
        "timesteps where they are not all, and the sampler with its steps. Learned guidance is taught by guidance "
        f"against {DEFAULT_TRAINING.distill_adapter_scale:g} of the adapter at all timesteps, up to scale {HIGHEST:g}, "
        f"in {DISTILL_STEPS} more training steps."
    )
    return [text, *_of_default(groups, yardsticks), markdown_table((*head, "agreement", "evaluations"), rows)]


def _of_default(groups: Mapping[str, Sequence[Cell]], yardsticks: Sequence[str]) -> Iterator[str]:
    """Yields a sentence that compares the default of requests with classifier-free guidance at all timesteps."""
    plain = replace(SamplingSettings.completed({}), guidance_adapter_scale=1.0, guidance_interval=EVERY_TIMESTEP)
    default, before = (groups.get(_name(asdict(sampling)), []) for sampling in (SamplingSettings.completed({}), plain))
    if default and before:
        nearer = [f"{_mean(default, name) / _mean(before, name):.2f} times the {name}" for name in yardsticks]
        default_cost, cost = (_mean(group, "evaluations") for group in (default, before))
        yield (
            f"The default of requests, {_name(default[0])}, leaves {' and '.join(nearer)} of classifier-free guidance "
            f"with the same scale at all timesteps, with {default_cost:.0f} instead of {cost:.0f} evaluations."
        )


def _mean(cells: Sequence[Cell], name: str) -> float:
    return float(statistics.mean(cell[name] for cell in cells))


def _name(cell: Cell) -> str:
    sampler = f"{cell['sampler']} {cell['steps']}"
    if cell["learned_guidance"]:
        return f"learned, {cell['guidance_scale']:g}, {sampler}"
    if cell["guidance_scale"] == 1:
        return f"no guidance, {sampler}"
    interval = (
        ""
        if list(cell["guidance_interval"]) == list(EVERY_TIMESTEP)
        else ", timesteps {}-{}".format(*cell["guidance_interval"])
    )
    return f"{cell['guidance_adapter_scale']:g}, {cell['guidance_scale']:g}{interval}, {sampler}"


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.guidance",
        description=__doc__,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--domains", nargs="+", choices=domains.SETS, default=["OpenMoji", "Fluent high contrast"])
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--training-steps", type=int, default=300)
    parser.add_argument("--pictures", type=int, default=192)
    parser.add_argument("--cache", type=Path, default=Path("build/packages"), help="for the fetched sets")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--output", type=Path, default=FOLDER)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
