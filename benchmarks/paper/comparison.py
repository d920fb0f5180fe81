"""Tables 1 and 4a to 4d of the paper on the bundled base: every system, on real domains, with several seeds.

One cell after another; each is written as soon as it is done, and a run that is started again goes on behind the last.
The paper's rates, relative to DiT's pre-training, are kept as they are. A class that the base knows by name starts from
its embedding, for all systems alike; the paper's base knew none of its domains' classes.
"""

import argparse
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from benchmarks.bundled_base.pictures import Artist, alike
from benchmarks.bundled_base.yardsticks import Judges
from benchmarks.paper import domains
from benchmarks.paper.cells import Bench, Budget
from benchmarks.paper.domains import SETS, Domain
from benchmarks.paper.results import facts, kept, markdown_table, said, write_json, write_markdown
from benchmarks.paper.settings import bundled_base, parser_of
from benchmarks.paper.systems import TABLES, System

Cell = dict[str, Any]


@dataclass(frozen=True)
class Comparison:
    name: str
    """Of the experiment: table1, table4a, ..."""
    title: str
    systems: tuple[System, ...]

    def main(self, arguments: Sequence[str] | None) -> None:
        options = _options(self, arguments)
        base = bundled_base(options)
        budget = Budget(
            steps=options.steps,
            batch_size=options.batch_size,
            pictures=options.pictures,
            sampling_steps=options.sampling_steps,
            guidance_scale=options.guidance_scale,
        )
        bench = Bench(base, Judges(inception=options.inception), budget)
        path = options.output / f"{self.name}.json"
        cells = kept(path, bench.identity, "cells")
        console = Console(stderr=True)
        wanted = [(domain, seed, system) for seed in range(options.seeds) for domain in options.domains
                  for system in self.systems]  # fmt: skip
        loaded = {name: domains.load(name, options.cache) for name in options.domains}
        _before(bench, loaded, cells)
        self._write(path, bench, cells, options)
        for place, (domain, seed, system) in enumerate(wanted, 1):
            key = {"domain": domain, "seed": seed, "system": system.name}
            if any(key.items() <= cell.items() for cell in cells):
                continue
            console.print(f"{place} of {len(wanted)}: {system.name}, {domain}, seed {seed}")
            cells.append(key | bench.run(system, loaded[domain], seed))
            self._write(path, bench, cells, options)
        console.print(f"{path}, {path.with_suffix('.md')}")

    def _write(self, path: Path, bench: Bench, cells: Sequence[Cell], options: argparse.Namespace) -> None:
        about = facts(f"python -m benchmarks.paper {self.name}", f"0 to {options.seeds - 1}", **bench.identity)
        write_json(path, {**about, "cells": cells})
        done = len(cells) - len(options.domains)
        total = len(self.systems) * len(options.domains) * options.seeds
        budget = bench.budget
        text = said(
            f"{budget.steps} steps of {budget.batch_size}, then {budget.pictures} pictures of {budget.sampling_steps}",
            f"steps with guidance {budget.guidance_scale}, for every cell; {done} of {total} cells are done. Scores",
            "are distances to drawings of the domain that no fine-tune has seen: means over the seeds, ± their",
            "standard deviation. They are no FID, and do not compare with the paper's. Time is the processor's of the",
            "training steps, relative to full fine-tuning on the same domain with the same seed.",
        )
        write_markdown(path.with_suffix(".md"), self.title, about, [text, *self._tables(cells, options.domains)])

    def _tables(self, cells: Sequence[Cell], names: Sequence[str]) -> list[str]:
        yardsticks = [name for name in ("feature distance", "FID") if any(name in cell for cell in cells)]
        return [f"{yardstick}:\n\n{self._table(cells, names, yardstick)}" for yardstick in yardsticks]

    def _table(self, cells: Sequence[Cell], names: Sequence[str], yardstick: str) -> str:
        untrained = [_values(cells, "the base", name, yardstick) for name in names]
        rows = [("the base", "0", *(_mean(values) for values in untrained), _over(untrained), "", "")]
        for system in self.systems:
            values = [_values(cells, system.name, name, yardstick) for name in names]
            counts = [cell["trainable"] for cell in cells if cell["system"] == system.name]
            rows.append((
                system.name,
                f"{counts[0]:,}" if counts else "",
                *(_mean(some) for some in values),
                _over(values),
                _relative_time(cells, system.name),
                "" if system.fid is None else f"{system.fid:.2f}",
            ))  # fmt: skip
        return markdown_table(("system", "trains", *names, "mean", "time", "the paper's FID"), rows)


def _before(bench: Bench, loaded: Mapping[str, Domain], cells: list[Cell]) -> None:
    """What the base draws for a domain's classes when nothing was trained."""
    config, names = bench.base.dit.config, bench.base.description.class_names
    artist = Artist.of_base(bench.base, bench.budget.sampling_steps, bench.budget.guidance_scale)
    for name, domain in loaded.items():
        if any(cell["system"] == "the base" and cell["domain"] == name for cell in cells):
            continue
        labels = alike(domain.held_out.labels, bench.budget.pictures)
        of_base = torch.tensor([names.index(one) for one in domain.held_out.class_names])[labels]
        pictures = artist.draw(of_base, f"the base, {config.num_classes} classes")
        cells.append({"domain": name, "seed": 0, "system": "the base", **bench.scores(pictures, domain)})


def _values(cells: Sequence[Cell], system: str, domain: str, yardstick: str) -> list[float]:
    return [cell[yardstick] for cell in cells if cell["system"] == system and cell["domain"] == domain]


def _mean(values: Sequence[float]) -> str:
    if not values:
        return "not yet"
    spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.2f}{spread}"


def _over(domains: Sequence[Sequence[float]]) -> str:
    return f"{statistics.mean(statistics.mean(one) for one in domains):.2f}" if all(domains) else "not yet"


def _relative_time(cells: Sequence[Cell], system: str) -> str:
    """The median over domains and seeds."""
    full = {(cell["domain"], cell["seed"]): cell["seconds"] for cell in cells if cell["system"] == "Full Fine-tuning"}
    of = {(cell["domain"], cell["seed"]): cell["seconds"] for cell in cells if cell["system"] == system}
    ratios = [seconds / full[key] for key, seconds in of.items() if key in full]
    return f"{statistics.median(ratios):.2f}x" if ratios else ""


def _options(comparison: Comparison, arguments: Sequence[str] | None) -> argparse.Namespace:
    about = f"{comparison.title}. {__doc__}"
    parser = parser_of(comparison.name, about, seeds=3, pictures=192)
    parser.add_argument("--domains", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--inception", type=Path, help="inception-2015-12-05.pt, to measure FID too")
    return parser.parse_args(arguments)


COMPARISONS = {
    "table1": Comparison("table1", "Table 1: methods", TABLES["1"]),
    "table4a": Comparison("table4a", "Table 4a: factors in the last blocks", TABLES["4a"]),
    "table4b": Comparison("table4b", "Table 4b: factors in the first blocks", TABLES["4b"]),
    "table4c": Comparison("table4c", "Table 4c: where the factors are", TABLES["4c"]),
    "table4d": Comparison("table4d", "Table 4d: learning rates", TABLES["4d"]),
}
