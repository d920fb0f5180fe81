"""Results as files for `docs/results`: JSON for machines, Markdown for people, each with hardware, date and seeds."""

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.serving.report import hardware

FOLDER = Path("docs/results")


def facts(command: str, seeds: str, **more: Any) -> dict[str, Any]:
    """What every result says of itself."""
    date = datetime.now(UTC).date().isoformat()
    return {"command": command, "date": date, "seeds": seeds, **more, "hardware": hardware()}


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values, indent=1, ensure_ascii=False) + "\n")


def kept(path: Path, identity: Mapping[str, Any], rows: str) -> list[dict[str, Any]]:
    """The `rows` of an earlier run, to go on behind them; none where its `identity` was another."""
    if not path.is_file():
        return []
    found = json.loads(path.read_text())
    return found[rows] if all(found[name] == value for name, value in identity.items()) else []


def write_markdown(path: Path, title: str, about: Mapping[str, Any], parts: Iterable[str]) -> None:
    """`parts` are paragraphs and tables, in order."""
    machine = about["hardware"]
    made = (
        f"`{about['command']}`, {about['date']}, {machine['cpu']}, cores: {machine['cores']}, GPU: {machine['gpu']}. "
        f"Seeds: {about['seeds']}."
    )
    path.write_text("\n\n".join([f"# {title}", *parts, made]) + "\n")


def said(*parts: str) -> str:
    """One text of several lines of code."""
    return " ".join(parts)


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """The first column to the left, the others to the right."""
    marks = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, marks, *rows])
