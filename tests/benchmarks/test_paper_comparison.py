"""Comparisons of methods: the paper's depths on another base, and what their tables say."""

from pathlib import Path

from benchmarks.paper.cells import fitted
from benchmarks.paper.comparison import COMPARISONS, Cell
from benchmarks.paper.results import kept
from benchmarks.paper.systems import TABLE_1, TABLE_4A, TABLE_4B
from core.artifact.sites import Sites


def test_depths_are_the_same_share_of_another_base() -> None:
    def depths(table: tuple[object, ...]) -> list[tuple[int, int | None]]:
        sites = [fitted(system, 8).sites for system in table]  # type: ignore[arg-type]
        return [(one.first_block, one.last_block) for one in sites if isinstance(one, Sites)]

    assert depths(TABLE_4A) == [(first, 8) for first in (8, 7, 6, 5, 4, 3, 2, 1)]
    assert depths(TABLE_4B) == [(1, last) for last in (1, 2, 3, 4, 5, 6, 7, 8)]
    assert all(fitted(system, 28) == system for table in (TABLE_1, TABLE_4A, TABLE_4B) for system in table)


def test_a_table_tells_means_spread_and_what_is_missing() -> None:
    def cell(system: str, domain: str, seed: int, distance: float, seconds: float) -> Cell:
        return {"system": system, "domain": domain, "seed": seed, "feature distance": distance,
                "seconds": seconds, "trainable": 1234}  # fmt: skip

    cells = [
        {"system": "the base", "domain": "A", "seed": 0, "feature distance": 50.0},
        {"system": "the base", "domain": "B", "seed": 0, "feature distance": 40.0},
        cell("Full Fine-tuning", "A", 0, 20, 100), cell("Full Fine-tuning", "A", 1, 22, 100),
        cell("DiffFit", "A", 0, 10, 50), cell("DiffFit", "A", 1, 14, 60), cell("DiffFit", "B", 0, 20, 60),
    ]  # fmt: skip
    table = COMPARISONS["table1"]._table(cells, ("A", "B"), "feature distance")
    rows = {line.split(" | ")[0].strip("| "): line for line in table.splitlines()}
    assert rows["the base"].startswith("| the base | 0 | 50.00 | 40.00 | 45.00 |")
    assert rows["DiffFit"] == "| DiffFit | 1,234 | 12.00 ± 2.83 | 20.00 | 16.00 | 0.55x | 15.39 |"
    assert rows["Full Fine-tuning"].startswith("| Full Fine-tuning | 1,234 | 21.00 ± 1.41 | not yet | not yet |")


def test_cells_of_another_budget_are_not_kept(tmp_path: Path) -> None:
    path = tmp_path / "table1.json"
    path.write_text('{"base": "a", "budget": {"steps": 2}, "cells": [{"system": "DiffFit"}]}')
    assert kept(path, {"base": "a", "budget": {"steps": 2}}, "cells") == [{"system": "DiffFit"}]
    assert kept(path, {"base": "a", "budget": {"steps": 3}}, "cells") == []
    assert kept(tmp_path / "none.json", {}, "cells") == []
