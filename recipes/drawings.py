"""Renders the emoji sets that the mini base learns from: `python -m recipes.drawings`.

Writes `<output>/<class>/<set>--<name>.png` for the training sets, and `<openmoji>/<class>/<name>.png` for OpenMoji,
whose style the base never sees. Fails if one of the two folders exists already.
"""

import argparse
import io
import re
import tomllib
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import resvg_py
from fontTools.ttLib import TTFont
from PIL import Image, ImageDraw, ImageFont

from recipes.packages import EMOJI_NAMES, OPENMOJI, TRAINING_SETS, Package, read_files, read_json

CLASS_TABLE = Path(__file__).with_name("classes.toml")
RENDERED = 384  # pixels along the longer side, before the image is cropped and scaled down
MARGIN = 1 / 16  # white border around the emoji, as a fraction of the image's side


@dataclass(frozen=True)
class Emoji:
    name: str  # CLDR name: lower case, hyphens
    code: str  # code points in hexadecimal, joined by hyphens, without variation selectors
    subgroup: str  # Unicode subgroup


Find = Callable[[Emoji], Image.Image | None]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("build/drawings"))
    parser.add_argument("--openmoji", type=Path, default=Path("build/openmoji"))
    parser.add_argument("--cache", type=Path, default=Path("build/packages"))
    parser.add_argument("--size", type=int, default=64, help="side of the pictures in pixels")
    arguments = parser.parse_args()

    classes = read_classes(CLASS_TABLE, arguments.cache)
    for folder in (arguments.output, arguments.openmoji):
        folder.mkdir(parents=True)  # fails if older images exist, whose classes may differ
        for label in classes:
            (folder / label).mkdir()
    for set_name, package in TRAINING_SETS.items():
        for label, name, picture in render_set(package, classes, arguments.cache, arguments.size):
            picture.save(arguments.output / label / f"{set_name}--{name}.png")
    for label, name, picture in render_set(OPENMOJI, classes, arguments.cache, arguments.size):
        picture.save(arguments.openmoji / label / f"{name}.png")
    for label in classes:
        print(f"{label:20} {len(list((arguments.output / label).glob('*.png'))):4}")


def read_paths(folder: Path) -> tuple[list[str], list[tuple[int, Path]]]:
    """Returns the class names of a folder of images in alphabetical order, and (class id, file) pairs sorted by class
    and file name.

    Raises FileNotFoundError if the folder has no images.
    """
    labels = sorted(path.name for path in folder.glob("*/") if any(path.glob("*.png")))
    if not labels:
        raise FileNotFoundError(f"no drawings in {folder}: run recipes.drawings first")
    return labels, [
        (number, path) for number, label in enumerate(labels) for path in sorted((folder / label).glob("*.png"))
    ]


def read_classes(table: Path, cache: Path) -> dict[str, list[Emoji]]:
    """Returns the classes of a TOML table with their emoji: classes in the table's order, emoji in Unicode's order.

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
    """Yields all emoji in Unicode's order, without variants that repeat a drawing.

    Variants are skin tones, which the data lists under their emoji, and emoji that only face right.
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
    """Yields (class, emoji name, image) for each emoji of the classes that the set contains."""
    if package.images:
        find = find_image(package, cache)
    elif package.fonts:
        find = find_glyph(package, cache)
    else:
        find = find_icon(package, cache)
    for label, members in classes.items():
        for emoji in members:
            picture = find(emoji)
            if picture is not None:
                yield label, emoji.name, framed(picture, size)


def find_image(package: Package, cache: Path) -> Find:
    """Returns a function that finds an emoji's image by its code points in a set of image files."""
    files = {plain_code(name): data for name, data in read_files(package, cache, f"{package.images}/*").items()}

    def find(emoji: Emoji) -> Image.Image | None:
        data = files.get(emoji.code)
        if data is None:
            return None
        return render(data.decode()) if data.lstrip().startswith(b"<") else Image.open(io.BytesIO(data))

    return find


def find_glyph(package: Package, cache: Path) -> Find:
    """Returns a function that draws an emoji of one code point with the set's fonts."""
    fonts = {
        code: data
        for data in read_files(package, cache, package.fonts or "").values()
        for code in TTFont(io.BytesIO(data)).getBestCmap()
    }

    def find(emoji: Emoji) -> Image.Image | None:
        data = None if "-" in emoji.code else fonts.get(int(emoji.code, 16))
        if data is None:
            return None
        picture = Image.new("RGBA", (2 * RENDERED, 2 * RENDERED))
        font = ImageFont.truetype(io.BytesIO(data), RENDERED)
        ImageDraw.Draw(picture).text((RENDERED, RENDERED), chr(int(emoji.code, 16)), "black", font, "mm")
        return picture

    return find


def find_icon(package: Package, cache: Path) -> Find:
    """Returns a function that finds an emoji in a set in Iconify's format, by its code points, or by its name, with or
    without hyphens, if the set does not list them."""
    icons = read_json(package, cache, "icons.json")
    codes = {plain_code(code): name for code, name in read_json(package, cache, "chars.json").items()}
    names = {name.replace("-", ""): name for name in (*icons.get("aliases", {}), *icons["icons"])}

    def find(emoji: Emoji) -> Image.Image | None:
        name = codes.get(emoji.code) or names.get(emoji.name.replace("-", ""))
        return None if name is None else render(svg(icons, name))

    return find


def svg(icons: dict[str, Any], name: str) -> str:
    """Returns an icon of an Iconify set as a complete SVG document. Raises KeyError for a name that the set does not
    have."""
    alias = icons.get("aliases", {}).get(name, {})
    icon = icons["icons"][alias.get("parent", name)]
    left, top = icon.get("left", 0), icon.get("top", 0)
    width, height = (icon.get(side, icons.get(side, 16)) for side in ("width", "height"))
    mirror = f' transform="translate({2 * left + width} 0) scale(-1 1)"' if alias.get("hFlip") else ""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{left} {top} {width} {height}">'
        f"<g{mirror}>{icon['body']}</g></svg>"
    )


def render(markup: str) -> Image.Image:
    """Renders an SVG on a transparent background."""
    png = resvg_py.svg_to_bytes(svg_string=markup, width=RENDERED, height=RENDERED, skip_system_fonts=True)
    return Image.open(io.BytesIO(bytes(png)))


def framed(picture: Image.Image, size: int) -> Image.Image:
    """Returns a square RGB image on white: cropped to its visible part, centred, with its aspect ratio kept."""
    drawing = picture.convert("RGBA")
    drawing = drawing.crop(drawing.getchannel("A").getbbox())
    side = round(max(drawing.size) / (1 - 2 * MARGIN))
    picture = Image.new("RGBA", (side, side), "white")
    picture.alpha_composite(drawing, ((side - drawing.width) // 2, (side - drawing.height) // 2))
    return picture.convert("RGB").resize((size, size), Image.Resampling.LANCZOS)


if __name__ == "__main__":
    main()
