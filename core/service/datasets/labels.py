"""Files in a zip that name the class of each image: `labels.csv`, and the metadata files of Hugging Face's image
folders. Where such a file names images, it decides instead of the folders."""

import csv
import io
import json
import unicodedata
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from core.service.datasets.images import Refused

FILE_NAMES = {"labels.csv", "metadata.csv", "metadata.jsonl"}
"""Names of label files, in lower case."""
_FILE_COLUMNS = ("file_name", "filename", "file", "image", "path")
_CLASS_COLUMNS = ("class_name", "label", "class")
"""Names of the columns, of which the first that a file has counts. In the metadata of downloaded images, `label` is
another text than the class."""
_MOST_FILES, _MOST_BYTES = 100, 2**23
"""Max label files of a zip that are read, the outermost first, and max bytes of all of them together."""
_MOST_COLUMNS = 100
_MOST_ACCENTS = 30
"""Max combining characters in a row in a path that is normalized. Unicode's Stream-Safe Text Format has the same
limit, which no language reaches."""
_DELIMITERS = ",;\t"
Read = Callable[[zipfile.ZipInfo], bytes]
"""Function that returns the bytes of a file in the zip, as many as the zip's index declares. Raises Refused."""


@dataclass
class Labels:
    """Classes of images by label files."""

    class_names: dict[str, str] = field(default_factory=dict)
    """Class name by the path of the image."""
    used: dict[str, str] = field(default_factory=dict)
    """Folder of each label file that is used, by its path. The folder is empty, or has a slash at its end."""
    problems: dict[str, str] = field(default_factory=dict)
    """Reason why a label file is not used, by its path."""

    def covers(self, path: str) -> bool:
        """Returns whether a label file in a folder around this image decides about its class."""
        return any(path.startswith(folder) for folder in self.used.values())


def read_labels(files: Iterable[tuple[zipfile.ZipInfo, str]], images: Sequence[str], read: Read) -> Labels:
    """Reads the label files among `files`, which are entries of the zip with their paths, and returns the classes of
    the images with the paths `images`. The label file nearest to an image decides. Paths in a label file are relative
    to its folder; a name without a folder also stands for the only image of this name in subfolders."""
    labels, left = Labels(), _MOST_BYTES
    normal = {path: _normal(path) for path in images}
    chosen = [(info, path) for info, path in files if PurePosixPath(path).name.lower() in FILE_NAMES]
    for info, path in sorted(chosen, key=lambda file: file[1].count("/"))[:_MOST_FILES]:
        folder = path[: path.rfind("/") + 1]
        try:
            if info.file_size > left:
                raise Refused("labels", f"All label files together have more than {_MOST_BYTES:,} bytes.")
            left -= info.file_size
            labels.class_names.update(_matches(_classes(path, read(info)), folder, normal))
        except Refused as refused:
            labels.problems[path] = refused.detail
        else:
            labels.used[path] = folder
    return labels


def _matches(classes: Mapping[str, str], folder: str, images: Mapping[str, str]) -> dict[str, str]:
    """Returns the class names of those images in a folder that its label file names. `images` maps paths to normalized
    paths. Raises Refused if there are fewer than half of them, since the folders are then more likely to be the
    classes."""
    start = len(_normal(folder))
    inside = {path: normal[start:] for path, normal in images.items() if path.startswith(folder)}
    names = Counter(PurePosixPath(own).name for own in inside.values())
    matches = {}
    for path, own in inside.items():
        name = PurePosixPath(own).name
        key = own if own in classes or names[name] > 1 else name
        if key in classes:
            matches[path] = classes[key]
    if not matches or 2 * len(matches) < len(inside):
        raise Refused("labels", f"It names {len(matches)} of the {len(inside)} images in its folder.")
    return matches


def _classes(path: str, data: bytes) -> dict[str, str]:
    """Returns the class names in a label file, by the paths of its images. Raises Refused."""
    text = data.decode("utf-8-sig", errors="replace")
    classes = {}
    try:
        for file, name in _json_rows(text) if path.lower().endswith(".jsonl") else _csv_rows(text):
            if file and name:
                classes[_normal(file.replace("\\", "/").removeprefix("./"))] = name
    except (ValueError, AttributeError, RecursionError, csv.Error) as error:
        raise Refused("labels", "It cannot be read.") from error
    if not classes:
        raise Refused("labels", "It has no columns `file_name` and `class_name` with values.")
    return classes


def _first(values: Mapping[str, Any], columns: Sequence[str]) -> str:
    """Returns the text in the first of these columns that a row has; empty if it has none of them."""
    value = next((values[column] for column in columns if column in values), None)
    is_value = isinstance(value, (str, int)) and not isinstance(value, bool)
    return str(value).strip() if is_value else ""


def _json_rows(text: str) -> Iterator[tuple[str, str]]:
    """Yields the file name and the class name of each row; empty texts for missing ones."""
    for line in text.split("\n"):
        if line.strip():
            values = {name.strip().lower(): value for name, value in json.loads(line).items()}
            yield _first(values, _FILE_COLUMNS), _first(values, _CLASS_COLUMNS)


def _csv_rows(text: str) -> Iterator[tuple[str, str]]:
    """Yields the file name and the class name of each row that has both columns. Reads only these columns: a DictReader
    would fill each row with every column of the header, so that a small file could take days."""
    header = text.partition("\n")[0]
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=max(_DELIMITERS, key=header.count))
    names = next(rows, [])
    if len(names) > _MOST_COLUMNS:
        raise Refused("labels", f"It has {len(names):,} columns; at most {_MOST_COLUMNS} are allowed.")
    places = {name.strip().lower(): place for place, name in enumerate(names)}
    file, name = (
        next((places[each] for each in columns if each in places), None) for columns in (_FILE_COLUMNS, _CLASS_COLUMNS)
    )
    if file is None or name is None:
        return
    for row in rows:
        if max(file, name) < len(row):
            yield row[file].strip(), row[name].strip()


def _normal(path: str) -> str:
    """Returns a path in composed form (NFC). Paths with more than `_MOST_ACCENTS` combining characters in a row stay as
    they are, since the time for normalizing them grows with the square of their number."""
    accents = 0
    for character in path if not path.isascii() else "":
        accents = accents + 1 if unicodedata.combining(character) else 0
        if accents > _MOST_ACCENTS:
            return path
    return unicodedata.normalize("NFC", path)
