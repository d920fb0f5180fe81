"""Stores the rows of a long measurement one by one, so that a repeated run continues after the last row."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.report import facts, write_json


class Record:
    """JSON file to which the rows of a long measurement are added, so that a repeated run continues after the last
    row."""

    def __init__(self, path: Path, identity: Mapping[str, Any], name: str, command: str) -> None:
        """Opens the file and reads its rows, which are under the key `name`. Raises SystemExit if the file was written
        with another `identity` (digests and settings): its rows are not comparable with new ones, and hours of work
        must not be overwritten."""
        stored = json.loads(path.read_text()) if path.is_file() else {}
        if other := [key for key, value in identity.items() if stored and stored.get(key) != value]:
            raise SystemExit(
                f"{path} was made with another {' and '.join(other)}: {stored['command']}. Pass the same options to "
                "continue, or another --output to start again."
            )
        self.path, self.identity, self.name, self.command = path, identity, name, command
        self.rows: list[dict[str, Any]] = stored.get(name, [])
        self._measured = {key: stored[key] for key in ("date", "hardware") if stored}

    def has(self, key: Mapping[str, Any]) -> bool:
        return any(key.items() <= row.items() for row in self.rows)

    def add(self, rows: Iterable[Mapping[str, Any]]) -> None:
        new = [dict(row) for row in rows]
        self.rows += new
        self._measured = {} if new else self._measured

    def write(self) -> dict[str, Any]:
        """Writes the file and returns its metadata. Date and hardware are from the run that measured the last row."""
        seeds = sorted({row["seed"] for row in self.rows})
        header = facts(self.command, ", ".join(map(str, seeds)), **self.identity) | self._measured
        write_json(self.path, {**header, self.name: self.rows})
        return header
