"""Loads real domains to compare systems on: sets of emoji in classes that the bundled base knows, or folders of images.

The emoji sets are fetched from npm in pinned versions and rendered here; only a sample of OpenMoji ships with the
project. The bundled base was not trained on them; `Fluent 3D` shows the objects of Fluent Emoji, which it was trained
on, as shaded renderings. Some sets share their shapes: the line art of OpenMoji, EmojiOne in one colour. A fine-tune
trains on four in five emoji of the sample domain. Its images are scored against the other emoji of the same classes,
which no fine-tune sees: the held-out fifth, and the emoji that the sample domain leaves out. (The classifier that
scores them was trained on OpenMoji, also without one emoji in five.) Of a folder's images, one in five is held out,
chosen by its file name.
"""

import argparse
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image

from benchmarks.bundled_base.finetuning import labelled
from core.ml.evaluation.classifier import IMAGE_SIZE
from core.ml.evaluation.drawings import Drawings, is_held_out, to_bytes
from recipes import sample_domain
from recipes.drawings import CLASS_TABLE, read_classes, render_set
from recipes.packages import OPENMOJI, Package

SETS = {
    "OpenMoji": OPENMOJI,
    "EmojiOne": Package(
        "@iconify-json/emojione", "1.2.3", "26a14f44284407e8bcde91799388dca2bfd91dbcd55a97f425524a1c5b73610e"
    ),
    "Fluent high contrast": Package(
        "@iconify-json/fluent-emoji-high-contrast",
        "1.2.6",
        "0b92d48c90d2200bd499e3cdd09a127ca6a8c8ddefd34c35eb5a1e4994012ae0",
    ),
    "EmojiOne 1": Package(
        "@iconify-json/emojione-v1", "1.2.3", "6641d59d48a42823fdc2b84e7427e9f302944eb98d2c7d94d6e67c139e7b37b3"
    ),
    "Fluent 3D": Package(
        "@lobehub/fluent-emoji-3d",
        "1.1.0",
        "c1bb7eee7de090205a232518a9ab4adb3df458bfbe8a1f78232991194c8b2e58",
        images="assets",
    ),
    "EmojiOne monotone": Package(
        "@iconify-json/emojione-monotone", "1.2.1", "40b90004bafb406b59266155ef9b7e1dd67bf2947fc8db8d07388776f4d0d04e"
    ),
    "OpenMoji outlines": Package(
        "openmoji",
        "17.0.0",
        "55ee7d13485dec86e9f38c1f3a645a13382d33ff97c0cd845ee824b0aef45e68",
        images="black/svg",
    ),
    "Noto Emoji font": Package(
        "@fontsource/noto-emoji",
        "5.3.2",
        "1fe49bb2cf7c2d78f93c0a69b6a431dcfd0d585b7831eba87fae6888ccf8d373",
        fonts="files/noto-emoji-*-400-normal.woff",
    ),
}
"""Emoji sets by name. Their licences, in order: CC BY-SA 4.0, CC BY 4.0, MIT, CC BY-SA 4.0, MIT, CC BY 4.0,
CC BY-SA 4.0 and SIL OFL 1.1."""


@dataclass(frozen=True)
class Domain:
    name: str
    class_names: tuple[str, ...]
    seen: Iterable[tuple[int, Image.Image]]
    """Training images as (class id, image) pairs, which can be iterated several times."""
    held_out: Drawings


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--domains", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--data", nargs="+", type=Path, help="instead: folders of one folder of images a class")


def asked_for(options: argparse.Namespace, size: int) -> list[Domain]:
    """Loads the domains that the options select. Held-out images of a folder are resized to `size` x `size` pixels."""
    if options.data:
        return [load_folder(folder, size) for folder in options.data]
    return [load(name, options.cache) for name in options.domains]


def load(name: str, cache: Path) -> Domain:
    """Loads an emoji set as a domain; fetches the set into `cache` if it is missing there. Raises ValueError if its
    digest is not the pinned one."""
    sample = read_classes(sample_domain.TABLE, cache)
    chosen = {entry.name for members in sample.values() for entry in members}
    labels = sorted(sample)
    classes = {label: entry for label, entry in read_classes(CLASS_TABLE, cache).items() if label in labels}
    drawn = list(render_set(SETS[name], classes, cache, IMAGE_SIZE))
    seen = [entry for entry in drawn if entry[1] in chosen and not is_held_out(entry[1])]
    unseen = [entry for entry in drawn if entry[1] not in chosen or is_held_out(entry[1])]
    names = tuple(labels)
    return Domain(name, names, labelled(_drawings(seen, names)), _drawings(unseen, names))


def load_folder(folder: Path, size: int) -> Domain:
    """Loads a folder that contains one folder of images per class. Raises FileNotFoundError if there are no images,
    ValueError if fewer than two of them are held out."""
    readable = Image.registered_extensions()
    paths = [path for path in sorted(folder.glob("*/*")) if path.suffix.lower() in readable]
    if not paths:
        raise FileNotFoundError(f"{folder} has no folders of images")
    names = tuple(dict.fromkeys(path.parent.name for path in paths))
    seen, unseen = ([path for path in paths if is_held_out(path.stem) is side] for side in (False, True))
    if len(unseen) < 2:
        raise ValueError(f"{folder} has too few images: {len(unseen)} of {len(paths)} are held out")
    held_out = Drawings(
        pixels=torch.cat([to_bytes([image], size) for _, image in Files(unseen, names)]),
        labels=torch.tensor([names.index(path.parent.name) for path in unseen]),
        emoji=tuple(path.stem for path in unseen),
        sets=("",) * len(unseen),
        class_names=names,
    )
    return Domain(str(folder), names, Files(seen, names), held_out)


@dataclass(frozen=True)
class Files:
    """Iterable of the (class id, image) pairs of class folders. It reads one image at a time, since a large data set
    does not fit into memory."""

    paths: Sequence[Path]
    class_names: tuple[str, ...]

    def __iter__(self) -> Iterator[tuple[int, Image.Image]]:
        for path in self.paths:
            with Image.open(path) as image:
                image.load()
                yield self.class_names.index(path.parent.name), image


def _drawings(drawn: list[tuple[str, str, Image.Image]], labels: tuple[str, ...]) -> Drawings:
    return Drawings(
        pixels=to_bytes([picture for _, _, picture in drawn], IMAGE_SIZE),
        labels=torch.tensor([labels.index(label) for label, _, _ in drawn]),
        emoji=tuple(name for _, name, _ in drawn),
        sets=("",) * len(drawn),
        class_names=labels,
    )
