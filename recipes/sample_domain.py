"""Renders the sample domain that ships with the project: `python -m recipes.sample_domain`."""

import argparse
from pathlib import Path

from PIL import Image

from core.ml.bundled import sample_domain_folder
from recipes.drawings import read_classes, render_set
from recipes.packages import OPENMOJI

TABLE = Path(__file__).with_name("sample_domain.toml")
COLOURS = 32  # size of the palette: OpenMoji has few colours, the rest is for smooth edges


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=sample_domain_folder())
    parser.add_argument("--cache", type=Path, default=Path("build/packages"))
    parser.add_argument("--size", type=int, default=128, help="side of the pictures in pixels")
    arguments = parser.parse_args()

    classes = read_classes(TABLE, arguments.cache)
    for label, name, picture in render_set(OPENMOJI, classes, arguments.cache, arguments.size):
        folder = arguments.output / label
        folder.mkdir(parents=True, exist_ok=True)
        picture.quantize(COLOURS, dither=Image.Dither.NONE).save(folder / f"{name}.png", optimize=True)


if __name__ == "__main__":
    main()
