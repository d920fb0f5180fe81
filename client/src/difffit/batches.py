"""Files with many requests for images, or with the URLs of many images: CSV with a header, or JSON lines."""

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

from difffit.errors import InvalidInput
from difffit.requests import GenerationSettings

_NAME = "name"
"""Column with the name of a line's images. All other columns are settings of `generations.create`."""
_JSON_SUFFIXES = {".jsonl", ".ndjson", ".json"}
_TYPES = get_type_hints(GenerationSettings)


def _has_numbers(hint: Any) -> bool:
    return hint in {int, float} or any(map(_has_numbers, get_args(hint)))


_NUMBERS = {name for name, hint in _TYPES.items() if _has_numbers(hint)}
"""Settings whose text in a CSV is a number or a JSON list of numbers."""
_CLASS = {"class_name", "class_id"}
_IMAGE = ("url", "class_name")


@dataclass(frozen=True)
class BatchRequest:
    line: int
    """Line of the file, from 1."""
    name: str
    settings: dict[str, Any]
    """Settings of `generations.create`, as JSON."""

    def files(self, folder: Path) -> list[Path]:
        """Returns the paths of the request's images: `NAME.png` for a single image, else `NAME-1.png`, `NAME-2.png` and
        so on."""
        count = self.settings.get("count")
        if not isinstance(count, int) or count <= 1:
            return [folder / f"{self.name}.png"]
        return [folder / f"{self.name}-{number}.png" for number in range(1, count + 1)]


def read_batch(file: Path, common: Mapping[str, Any]) -> list[BatchRequest]:
    """Reads a file with one request per line. `common` has settings for lines that have none of their own. A line
    without a name is named after its number, such as `0007`. Raises InvalidInput, which names the line."""
    requests = [_request(line, row, common) for line, row in _rows(file)]
    if not requests:
        raise InvalidInput(f"{file} has no requests. Write one per line: CSV with a header, or JSON objects.")
    _check_files(requests)
    return requests


def read_images(file: Path) -> list[tuple[str, str]]:
    """Reads a file with the `url` and `class_name` of one image per line, as `datasets.import_images` takes them.
    Raises InvalidInput, which names the line."""
    images = []
    for line, row in _rows(file):
        if not all(isinstance(row.get(column), str) for column in _IMAGE):
            raise InvalidInput(f"Line {line} needs the columns {' and '.join(_IMAGE)}.")
        images.append((row["url"], row["class_name"]))
    return images


def _rows(file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    text = file.read_bytes().decode("utf-8-sig", errors="replace")
    return _json_rows(text) if file.suffix.lower() in _JSON_SUFFIXES else _csv_rows(text)


def _json_rows(text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    for line, content in enumerate(text.splitlines(), 1):
        if not content.strip():
            continue
        try:
            row = json.loads(content)
        except ValueError as error:
            raise InvalidInput(f"Line {line} is not JSON: {error}.") from error
        if not isinstance(row, dict):
            raise InvalidInput(f"Line {line} is not a JSON object.")
        yield line, row


def _csv_rows(text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        for row in reader:
            line = reader.line_num
            if None in row:
                raise InvalidInput(f"Line {line} has more cells than the header.")
            cells = {name.strip(): cell.strip() for name, cell in row.items() if cell and cell.strip()}
            yield line, {name: _cell(line, name, cell) for name, cell in cells.items()}
    except csv.Error as error:
        raise InvalidInput(f"Line {reader.line_num} is not CSV: {error}.") from error


def _cell(line: int, name: str, cell: str) -> Any:
    if name not in _NUMBERS:
        return cell
    try:
        return json.loads(cell)
    except ValueError as error:
        raise InvalidInput(f"Line {line}: {name} is '{cell}', which is not a number.") from error


def _request(line: int, row: Mapping[str, Any], common: Mapping[str, Any]) -> BatchRequest:
    unknown = sorted(row.keys() - _TYPES.keys() - {_NAME})
    if unknown:
        raise InvalidInput(f"Line {line} has '{unknown[0]}', but the settings are {', '.join([_NAME, *_TYPES])}.")
    own = {name: value for name, value in row.items() if name != _NAME}
    shared = {name: value for name, value in common.items() if not (name in _CLASS and own.keys() & _CLASS)}
    name = str(row.get(_NAME, f"{line:04}"))
    if name.startswith(".") or not name.isprintable() or set(name) & set('/\\:*?"<>|'):
        raise InvalidInput(f"Line {line}: '{name}' cannot be the name of a file.")
    return BatchRequest(line, name, json.loads(json.dumps({**shared, **own})))


def _check_files(requests: Iterable[BatchRequest]) -> None:
    """Raises InvalidInput if two requests would write the same file."""
    lines: dict[Path, int] = {}
    for request in requests:
        for path in request.files(Path()):
            other = lines.setdefault(path, request.line)
            if other != request.line:
                raise InvalidInput(f"Lines {other} and {request.line} would both write {path}. Rename one of them.")
