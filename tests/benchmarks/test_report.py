"""Reports of all benchmarks: verdicts, tables, pages and curves."""

import json
from pathlib import Path

import pytest
from PIL import Image

from benchmarks.report import Measure, Table, facts, plot, show, write_json, write_markdown

MEASURES = [
    Measure(name="a ratio", subject="small", value=0.5, limit=0.9, samples={"a": [1.0, 3.0, 2.0]}, note="a note"),
    Measure(name="another", subject="DiT-XL/2, GPU", value=None, note="no GPU"),
    Measure(name="loading", value=2.0, unit="s", limit=3, best="lowest"),
]


def test_verdicts_follow_the_limits() -> None:
    def verdict(value: float | None, limit: float | None, best: str = "highest") -> str:
        return Measure(name="", subject="", value=value, limit=limit, best=best).verdict  # type: ignore[arg-type]

    assert verdict(0.92, 0.92) == verdict(1.3, 1.3, "lowest") == "pass"
    assert verdict(0.919, 0.92) == verdict(1.31, 1.3, "lowest") == "below"
    assert (verdict(1, None), verdict(None, 1)) == ("measured", "not measured")


def test_measures_are_shown_with_limit_and_verdict(capsys: pytest.CaptureFixture[str]) -> None:
    show(Table.of_measures(MEASURES, "a title"), "a paragraph with [brackets]")
    printed = " ".join(capsys.readouterr().out.split())
    for text in ("a title", "0.500", "at least 0.900", "below", "no GPU", "at most 3.0 s", "[brackets]"):
        assert text in printed


def test_json_has_verdict_and_medians(tmp_path: Path) -> None:
    write_json(tmp_path / "new" / "report.json", {"measures": [row.to_json() for row in MEASURES]})
    rows = json.loads((tmp_path / "new" / "report.json").read_text())["measures"]
    assert [row["verdict"] for row in rows] == ["below", "not measured", "pass"]
    assert rows[0]["medians"] == {"a": 2.0}


def test_page_names_command_machine_and_seeds(tmp_path: Path) -> None:
    run_facts = facts("python -m benchmarks.example", "0 to 2")
    write_markdown(tmp_path / "page.md", "A title", run_facts, ["text", Table(("a", "b"), [("1", "2")])])
    first, text, table, last = (tmp_path / "page.md").read_text().strip().split("\n\n")
    assert (first, text, table) == ("# A title", "text", "| a | b |\n| --- | ---: |\n| 1 | 2 |")
    assert last.startswith(f"`python -m benchmarks.example`, {run_facts['date']}, {run_facts['hardware']['cpu']}")
    assert last.endswith("Seeds: 0 to 2.")


def test_curve_is_written_as_an_image(tmp_path: Path) -> None:
    with plot(tmp_path / "curve.png", 2) as (left, _):
        left.plot([1, 8, 32], [2.0, 12.5, 30.0])
    with Image.open(tmp_path / "curve.png") as picture:
        assert picture.width == 2 * 5 * 110
        assert len(picture.convert("RGB").getcolors(10_000) or []) > 2
