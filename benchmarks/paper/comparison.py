"""Reruns Tables 1 and 4a to 4d of the DiffFit paper: every system, on real domains, with several seeds.

Each cell is written as soon as it is done, and a repeated run continues after the last one. Learning rates are the
paper's, as multiples of DiT's pre-training rate. In all systems, a class that the base knows by name starts from the
base's embedding of that class; the paper's base knew none of its domains' classes.

By default it uses the bundled base. For the paper's size, pass `--size xl --data food-101/images --inception
inception-2015-12-05.pt`; with `--dry-run` first, it prints the hours and the memory.
"""

import argparse
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import torch
from rich.console import Console

from benchmarks.bundled_base.pictures import Artist, alike
from benchmarks.paper import domains
from benchmarks.paper.beside import beside_the_paper
from benchmarks.paper.cells import Bench, Budget
from benchmarks.paper.domains import Domain
from benchmarks.paper.plan import plan
from benchmarks.paper.record import Record
from benchmarks.paper.settings import described, judges_of, loaded_base, parsed, parser_of, sampling_of
from benchmarks.paper.systems import TABLES, System
from benchmarks.report import markdown_table, mean_text, write_markdown
from core.artifact.sampling import SamplingSettings
from core.ml.evaluation.yardsticks import DISTANCES

Cell = dict[str, Any]
FULL = TABLES["1"][0].name


@dataclass(frozen=True)
class Comparison:
    name: str
    """Name of the experiment: table1, table4a, ..."""
    title: str
    systems: tuple[System, ...]

    def main(self, arguments: Sequence[str] | None) -> None:
        options = _options(self, arguments)
        budget = Budget(
            steps=options.steps,
            batch_size=options.batch_size,
            pictures=options.pictures,
            sampling=sampling_of(options),
        )
        if options.dry_run:
            cells = options.seeds * len(options.data or options.domains)
            print(plan(self.systems, budget, options.micro_batch_size or budget.batch_size, cells))
            return
        base = loaded_base(options)
        bench = Bench(base, judges_of(options), budget, options.micro_batch_size)
        record = Record(options.output / f"{self.name}.json", bench.identity, "cells", options.command)
        console = Console(stderr=True)
        loaded = {each.name: each for each in domains.asked_for(options, base.description.image_size)}
        cells = [(domain, seed, system) for seed in range(options.seeds) for domain in loaded.values()
                 for system in self.systems]  # fmt: skip
        wanted = [cell for cell in cells if not all(map(record.has, _keys(*cell)))]
        console.print(f"{len(cells) - len(wanted)} of {len(cells)} cells are measured already.")
        record.add(_before(bench, loaded, record))
        self._write(record, bench.budget, len(cells))
        for place, (domain, seed, system) in enumerate(wanted, 1):
            console.print(f"{place} of {len(wanted)}: {system.name}, {domain.name}, seed {seed}")
            rows = list(bench.run(system, domain, seed))
            record.add(row for row, key in zip(rows, _keys(domain, seed, system), strict=True) if not record.has(key))
            self._write(record, bench.budget, len(cells))
        console.print(f"{record.path}, {record.path.with_suffix('.md')}")

    def _write(self, record: Record, budget: Budget, wanted: int) -> None:
        header, cells = record.write(), record.rows
        done = sum(cell["system"] in {system.name for system in self.systems} for cell in cells)
        text = (
            f"{budget.steps} steps of {budget.batch_size}, then {budget.pictures} pictures of "
            f"{described(budget.sampling)}, for every cell; {done} of {max(done, wanted)} cells are "
            "done. Scores are distances to images of the domain that no fine-tune has seen: means over the seeds, ± "
            "their standard deviation where there are several. All systems of a seed see the same images, timesteps "
            "and noise, so that differences between systems vary less than those between seeds. The distances by the "
            "features of the classifier and of the ImageNet network are no FIDs, and do not compare with the paper's."
        )
        names = list(dict.fromkeys(cell["domain"] for cell in cells))
        yardsticks = [name for name in DISTANCES if any(name in cell for cell in cells)]
        if any(system.recommended for system in self.systems):
            default = SamplingSettings.completed({})
            text += (
                " Rows with recommended guidance have the same fine-tunes, guided as requests are by default: with "
                f"scale {default.guidance_scale:g}, against {100 * default.guidance_adapter_scale:g} % of the "
                f"fine-tune, at timesteps {default.guidance_interval[0]} to {default.guidance_interval[1]}."
            )
        tables = [
            f"{yardstick}:\n\n{self._table(cells, names, yardstick)}\n\n{self._nearest(cells, names, yardstick)}"
            for yardstick in yardsticks
        ]
        beside = self._beside(cells, names, yardsticks)
        write_markdown(record.path.with_suffix(".md"), self.title, header, [text, *tables, *_of_time(cells), *beside])

    def _beside(self, cells: Sequence[Cell], names: Sequence[str], yardsticks: Sequence[str]) -> Iterator[str]:
        """Yields the comparison with the paper's table, if the paper's has several data sets."""
        if not all(system.fids for system in self.systems):
            return
        measured = {
            yardstick: {system.name: _means(cells, system.name, names, yardstick) for system in self.systems}
            for yardstick in yardsticks
        }
        times = {system.name: _relative_time(cells, system.name) for system in self.systems}
        trains = {cell["system"]: cell["trainable"] for cell in cells if "trainable" in cell}
        yield from beside_the_paper(self.systems, measured, times, trains)

    def _rows(self) -> Iterator[tuple[str, float | None]]:
        """Yields the name and the paper's FID of each row of the table."""
        for system in self.systems:
            yield from zip_longest(system.row_names, [system.fid])

    def _nearest(self, cells: Sequence[Cell], names: Sequence[str], yardstick: str) -> str:
        """Returns a sentence that names, for each domain, the system with the least mean distance over the seeds."""
        distances = {row: _means(cells, row, names, yardstick) for row, _ in self._rows()}
        whole = {name: means for name, means in distances.items() if len(means) == len(names)}
        if not whole:
            return "No system has been measured on all domains yet."
        systems, columns = list(whole), zip(*whole.values(), strict=True)
        nearest = [f"{systems[means.index(min(means))]} to {name}" for name, means in zip(names, columns, strict=True)]
        ranks = sorted(whole, key=lambda system: statistics.mean(whole[system]))
        order = ", ".join(f"{name} ({statistics.mean(whole[name]):.2f})" for name in ranks[:3])
        return f"Nearest: {', '.join(nearest)}" + (f"; by the mean {order}." if len(names) > 1 else ".")

    def _table(self, cells: Sequence[Cell], names: Sequence[str], yardstick: str) -> str:
        untrained = [_values(cells, "the base", name, yardstick) for name in names]
        timed = any(cell["system"] == FULL for cell in cells)
        no_time = ("",) if timed else ()
        rows = [("the base", "0", *(mean_text(values) for values in untrained), _over(untrained), *no_time, "")]
        rows = rows if any(untrained) else []
        for row, fid in self._rows():
            values = [_values(cells, row, name, yardstick) for name in names]
            counts = [cell["trainable"] for cell in cells if cell["system"] == row]
            rows.append((
                row,
                f"{counts[0]:,}" if counts else "",
                *(mean_text(some) for some in values),
                _over(values),
                *((_relative_time(cells, row),) if timed else ()),
                "" if fid is None else f"{fid:.2f}",
            ))  # fmt: skip
        time = ("time",) if timed else ()
        return markdown_table(("system", "trains", *names, "mean", *time, "the paper's FID"), rows)


def _keys(domain: Domain, seed: int, system: System) -> list[Cell]:
    """Returns the keys of the rows of a cell."""
    return [{"domain": domain.name, "seed": seed, "system": name} for name in system.row_names]


def _before(bench: Bench, loaded: Mapping[str, Domain], record: Record) -> Iterator[Cell]:
    """Yields the scores of the base without fine-tuning, for each domain whose classes are all known to the base."""
    config, names = bench.base.dit.config, bench.base.description.class_names
    artist = Artist.of_base(bench.base, bench.budget.sampling)
    for name, domain in loaded.items():
        key = {"domain": name, "seed": 0, "system": "the base"}
        if record.has(key) or not set(domain.class_names) <= set(names):
            continue
        labels = alike(domain.held_out.labels, bench.budget.pictures)
        of_base = torch.tensor([names.index(class_name) for class_name in domain.held_out.class_names])[labels]
        pictures = artist.draw(of_base, f"the base, {config.num_classes} classes")
        yield key | bench.scores(pictures, domain)


def _values(cells: Sequence[Cell], system: str, domain: str, yardstick: str) -> list[float]:
    return [cell[yardstick] for cell in cells if cell["system"] == system and cell["domain"] == domain]


def _means(cells: Sequence[Cell], system: str, domains: Sequence[str], yardstick: str) -> list[float]:
    """Returns the means over the seeds, for each domain on which the system has been measured."""
    values = (_values(cells, system, domain, yardstick) for domain in domains)
    return [statistics.mean(some) for some in values if some]


def _over(domains: Sequence[Sequence[float]]) -> str:
    return f"{statistics.mean(statistics.mean(values) for values in domains):.2f}" if all(domains) else "not yet"


def _relative_time(cells: Sequence[Cell], system: str) -> str:
    """Returns the ratio of a system's training time to full fine-tuning's, as the median over domains and seeds."""
    full = {(cell["domain"], cell["seed"]): cell["seconds"] for cell in cells if cell["system"] == FULL}
    of = {(cell["domain"], cell["seed"]): cell["seconds"] for cell in cells if cell["system"] == system}
    ratios = [seconds / full[key] for key, seconds in of.items() if key in full]
    return f"{statistics.median(ratios):.2f}x" if ratios else ""


def _of_time(cells: Sequence[Cell]) -> list[str]:
    if not any(cell["system"] == FULL for cell in cells):
        return []
    clock = "the processor's on a CPU, the clock's on a GPU"
    return [f"Time is that of the training steps, {clock}, relative to full fine-tuning on the same domain and seed."]


def _options(comparison: Comparison, arguments: Sequence[str] | None) -> argparse.Namespace:
    description = f"{comparison.title}. {__doc__}"
    parser = parser_of(comparison.name, description, seeds=3, pictures=192)
    domains.add_options(parser)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--micro-batch-size", type=int, help="images that pass at once; fewer need less memory")
    parser.add_argument("--dry-run", action="store_true", help="only print what the cells would cost on a GPU")
    return parsed(parser, arguments)


COMPARISONS = {
    "table1": Comparison("table1", "Table 1: methods", TABLES["1"]),
    "table4a": Comparison("table4a", "Table 4a: factors in the last blocks", TABLES["4a"]),
    "table4b": Comparison("table4b", "Table 4b: factors in the first blocks", TABLES["4b"]),
    "table4c": Comparison("table4c", "Table 4c: where the factors are", TABLES["4c"]),
    "table4d": Comparison("table4d", "Table 4d: learning rates", TABLES["4d"]),
}
