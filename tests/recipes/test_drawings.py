"""Rendering of emoji sets: Iconify's format, image files named by code points, and fonts."""

import hashlib
import io
import json
import tarfile
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from PIL import Image

from recipes.drawings import Emoji, render_set
from recipes.packages import Package

SUN = Emoji("sun", "2600", "sky-weather")
MISSING = Emoji("flag", "1f1e6-1f1e7", "flag")
CIRCLE = '<circle cx="8" cy="8" r="4" fill="red"/>'
SVG = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 16 16">{CIRCLE}</svg>'


def packed(cache: Path, files: dict[str, bytes], **form: str) -> Package:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(f"package/{name}")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    package = Package("@test/set", "1.0.0", hashlib.sha256(content.getvalue()).hexdigest(), **form)
    (cache / package.archive).write_bytes(content.getvalue())
    return package


def rendered(package: Package, cache: Path) -> np.ndarray:
    ((label, name, picture),) = render_set(package, {"weather": [SUN, MISSING]}, cache, 64)
    assert (label, name, picture.size, picture.mode) == ("weather", "sun", (64, 64), "RGB")
    return np.asarray(picture)


def encoded(picture: Image.Image) -> bytes:
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize(
    ("files", "form"),
    [
        (
            {
                "icons.json": json.dumps({"icons": {"sun": {"body": CIRCLE}}}).encode(),
                "chars.json": json.dumps({"2600-fe0f": "sun"}).encode(),
            },
            {},
        ),
        ({"svg/2600-FE0F.svg": SVG.encode(), "svg/ignored/1F1E6-1F1E7.svg": b""}, {"images": "svg"}),
        ({"assets/2600.png": encoded(Image.new("RGBA", (50, 50), "red"))}, {"images": "assets"}),
    ],
    ids=["iconify", "svg", "png"],
)
def test_set_is_rendered_in_the_middle_with_a_white_margin(
    files: dict[str, bytes], form: dict[str, str], tmp_path: Path
) -> None:
    pixels = rendered(packed(tmp_path, files, **form), tmp_path)
    assert pixels[32, 32].tolist() == [255, 0, 0]
    assert (pixels[:2] > 240).all()  # the filter rings a little
    assert (pixels[:, -2:] > 240).all()


def test_font_is_rendered_glyph_by_glyph(tmp_path: Path) -> None:
    font = Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf"
    package = packed(tmp_path, {"files/a-400.ttf": font.read_bytes(), "files/a-700.ttf": b""}, fonts="files/*-400.ttf")
    pixels = rendered(package, tmp_path)
    dark = pixels.mean(2) < 128
    rows, columns = np.nonzero(dark)
    assert 0.05 < dark.mean() < 0.6
    assert rows.min() + rows.max() == pytest.approx(63, abs=3)
    assert columns.min() + columns.max() == pytest.approx(63, abs=3)
