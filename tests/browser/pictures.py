"""Pictures of the pages for the documents, from the screenshots of the browser tests; `make pictures` does both."""

from pathlib import Path

from PIL import Image

from tests.browser.conftest import SCREENSHOTS

KEPT = {"images": "images", "training-now": "training", "playground": "playground", "adapters": "adapters"}
"""Screenshots, and their names in the documents."""
MARGIN = 96
"""Width of the empty margin next to the content, in pixels."""
FOLDER = Path(__file__).parents[2] / "docs" / "images"


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    for name, called in KEPT.items():
        with Image.open(SCREENSHOTS / f"{name}-1440-light.png") as shot:
            cropped = shot.crop((MARGIN, 0, shot.width - MARGIN, shot.height))
            cropped.quantize(256, dither=Image.Dither.NONE).save(FOLDER / f"{called}.png", optimize=True)


if __name__ == "__main__":
    main()
