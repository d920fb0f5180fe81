"""Renders the emoji sets that the mini base learns from: `python -m recipes.drawings`.

Writes `<output>/<class>/<set>--<name>.png` for the training sets, and `<openmoji>/<class>/<name>.png` for
OpenMoji, whose style the base never sees. Neither folder may exist before.
"""

import argparse
import io
import re
import tomllib
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import resvg_py
from PIL import Image

from recipes.packages import EMOJI_NAMES, OPENMOJI, TRAINING_SETS, Package, read_json

CLASS_TABLE = Path(__file__).with_name("classes.toml")
RENDERED = 384  # pixels along the longer side, before the drawing is cropped and made smaller
MARGIN = 1 / 16  # of the picture's side, left white around the drawing


@dataclass(frozen=True)
class Emoji:
    name: str  # CLDR name: lower case, hyphens
    code: str  # code points in hexadecimal, joined by hyphens, without variation selectors
    subgroup: str  # Unicode subgroup


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("build/drawings"))
    parser.add_argument("--openmoji", type=Path, default=Path("build/openmoji"))
    parser.add_argument("--cache", type=Path, default=Path("build/packages"))
    parser.add_argument("--size", type=int, default=64, help="side of the pictures in pixels")
    arguments = parser.parse_args()

    classes = read_classes(CLASS_TABLE, arguments.cache)
    for folder in (arguments.output, arguments.openmoji):
        folder.mkdir(parents=True)  # never over older drawings, whose classes may have been others
        for label in classes:
            (folder / label).mkdir()
    for set_name, package in TRAINING_SETS.items():
        for label, name, picture in render_set(package, classes, arguments.cache, arguments.size):
            picture.save(arguments.output / label / f"{set_name}--{name}.png")
    for label, name, picture in render_set(OPENMOJI, classes, arguments.cache, arguments.size):
        picture.save(arguments.openmoji / label / f"{name}.png")
    for label in classes:
        print(f"{label:20} {len(list((arguments.output / label).glob('*.png'))):4}")


def read_folder(folder: Path) -> tuple[list[str], list[tuple[int, Image.Image]]]:
    """Returns class names in alphabetical order, and (class id, image) pairs by class and file name.

    Raises FileNotFoundError where the folder has no drawings.
    """
    labels = sorted(path.name for path in folder.glob("*/") if any(path.glob("*.png")))
    if not labels:
        raise FileNotFoundError(f"no drawings in {folder}: run recipes.drawings first")
    pictures = [
        (number, Image.open(path).convert("RGB"))
        for number, label in enumerate(labels)
        for path in sorted((folder / label).glob("*.png"))
    ]
    return labels, pictures


def read_classes(table: Path, cache: Path) -> dict[str, list[Emoji]]:
    """Returns the classes of a table with their emoji, in the table's and in Unicode's order.

    Raises ValueError for a subgroup or emoji that Unicode does not have, and for an emoji in two classes.
    """
    emoji = {each.name: each for each in read_emoji(cache)}
    subgroups = {each.subgroup for each in emoji.values()}
    classes: dict[str, list[Emoji]] = {}
    taken: dict[str, str] = {}
    for label, rule in tomllib.loads(table.read_text()).items():
        wanted, added, dropped = (set(rule.get(key, [])) for key in ("subgroups", "add", "drop"))
        if unknown := (wanted - subgroups) | ((added | dropped) - emoji.keys()):
            raise ValueError(f"class {label}: Unicode has no {sorted(unknown)}")
        members = [
            each
            for each in emoji.values()
            if (each.subgroup in wanted and each.name not in dropped) or each.name in added
        ]
        for each in members:
            if (other := taken.setdefault(each.name, label)) != label:
                raise ValueError(f"{each.name} is in two classes, {other} and {label}")
        classes[label] = members
    return classes


def read_emoji(cache: Path) -> Iterator[Emoji]:
    """Yields every emoji in Unicode's order, without those that repeat a drawing.

    Skin tones are listed below their emoji and so left out; so are drawings that only face the other way.
    """
    subgroups = read_json(EMOJI_NAMES, cache, "meta/groups.json")["subgroups"]
    for entry in read_json(EMOJI_NAMES, cache, "en/data.json"):
        if "subgroup" not in entry or entry["label"].endswith("facing right"):
            continue
        yield Emoji(slug(entry["label"]), plain_code(entry["hexcode"]), subgroups[str(entry["subgroup"])])


def slug(label: str) -> str:
    ascii_label = unicodedata.normalize("NFKD", label.replace("\u2019", "")).encode("ascii", "ignore").decode()
    return re.sub(r"[^a-z0-9]+", "-", ascii_label.lower()).strip("-")


def plain_code(code: str) -> str:
    return "-".join(point for point in code.lower().split("-") if point != "fe0f")


def render_set(
    package: Package, classes: dict[str, list[Emoji]], cache: Path, size: int
) -> Iterator[tuple[str, str, Image.Image]]:
    """Yields class, emoji name and image for each emoji of the classes that the set has. A set without characters is
    searched by name."""
    icons = read_json(package, cache, "icons.json")
    names = {plain_code(code): name for code, name in read_json(package, cache, "chars.json").items()}
    for label, members in classes.items():
        for emoji in members:
            name = names.get(emoji.code, emoji.name)
            if name in icons["icons"] or name in icons.get("aliases", {}):
                yield label, emoji.name, render(svg(icons, name), size)


def svg(icons: dict[str, Any], name: str) -> str:
    """Returns an icon of an Iconify set as a whole SVG file. Raises KeyError for a name that the set does not have."""
    alias = icons.get("aliases", {}).get(name, {})
    icon = icons["icons"][alias.get("parent", name)]
    left, top = icon.get("left", 0), icon.get("top", 0)
    width, height = (icon.get(side, icons.get(side, 16)) for side in ("width", "height"))
    mirror = f' transform="translate({2 * left + width} 0) scale(-1 1)"' if alias.get("hFlip") else ""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{left} {top} {width} {height}">'
        f"<g{mirror}>{icon['body']}</g></svg>"
    )


def render(markup: str, size: int) -> Image.Image:
    """Returns an SVG as a square RGB image on white: cropped to what is drawn, centred, aspect ratio kept."""
    png = resvg_py.svg_to_bytes(svg_string=markup, width=RENDERED, height=RENDERED, skip_system_fonts=True)
    drawing = Image.open(io.BytesIO(bytes(png))).convert("RGBA")
    drawing = drawing.crop(drawing.getchannel("A").getbbox())
    side = round(max(drawing.size) / (1 - 2 * MARGIN))
    picture = Image.new("RGBA", (side, side), "white")
    picture.alpha_composite(drawing, ((side - drawing.width) // 2, (side - drawing.height) // 2))
    return picture.convert("RGB").resize((size, size), Image.Resampling.LANCZOS)


if __name__ == "__main__":
    main()
