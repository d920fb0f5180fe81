"""Generated images: PNGs that contain the settings with which they were generated."""

import json
import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from difffit.errors import InvalidInput

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_KEYWORD = b"difffit"


@dataclass(frozen=True)
class Picture:
    """Generated image, as downloaded from the server."""

    data: bytes = field(repr=False)
    """Bytes of the PNG file."""
    index: int
    seed: int
    """Seed of this image. A generation with this seed and a count of 1 gives the same image."""
    sha256: str
    class_name: str
    generation_id: str

    @property
    def settings(self) -> dict[str, Any]:
        """Adapter, base model, class label, seed, sampling steps, sampler and guidance, read from the PNG's text
        chunk."""
        return read_settings(self.data)

    def _repr_png_(self) -> bytes:
        """Returns the image for notebooks, which show it instead of its description."""
        return self.data

    def save(self, path: str | Path) -> Path:
        """Writes the PNG, which contains its settings, and returns the file's path. A path without a suffix is a
        folder; the file in it is named after class label and seed, and gets a number if another image has that name."""
        target = Path(path)
        if target.is_dir() or not target.suffix:
            target = self._free_path(target)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(self.data)
        return target

    def _free_path(self, folder: Path) -> Path:
        name = file_name(self.class_name, self.seed)
        target, number = folder / name, 2
        while target.exists() and target.read_bytes() != self.data:
            target, number = folder / f"{name.removesuffix('.png')}-{number}.png", number + 1
        return target


def file_name(class_name: str, seed: int) -> str:
    """Returns a file name made of class label and seed, such as `fruit-7.png`."""
    slug = re.sub(r"[^\w.-]+", "-", class_name).strip("-.") or "image"
    return f"{slug}-{seed}.png"


def read_settings(data: bytes) -> dict[str, Any]:
    """Returns the generation settings stored in a PNG. Raises InvalidInput if the data is not a PNG or contains no
    settings."""
    if not data.startswith(_SIGNATURE):
        raise InvalidInput("The data is not a PNG. Pass an image that a DiffFit server generated.")
    for kind, chunk in _chunks(data):
        if kind == b"iTXt" and chunk.startswith(_KEYWORD + b"\0"):
            is_compressed = chunk[len(_KEYWORD) + 1] == 1
            _language, _translated, text = chunk[len(_KEYWORD) + 3 :].split(b"\0", 2)
            settings: dict[str, Any] = json.loads(zlib.decompress(text) if is_compressed else text)
            return settings
    raise InvalidInput(
        "The PNG contains no settings, so no DiffFit server generated it. Pass an unmodified image of a server."
    )


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    position = len(_SIGNATURE)
    while position + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        yield kind, data[position + 8 : position + 8 + length]
        position += length + 12
