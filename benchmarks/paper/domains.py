"""Real domains for comparisons on the bundled base: sets of emoji whose style it has never seen, in classes it knows.

Fetched by pinned version from npm and rendered here; none of these drawings is part of the project but OpenMoji's
sample. A fine-tune gets the emoji of the sample domain without one in five; scores are against those and the further
emoji of the same classes, which no fine-tune has seen. (The classifier has learned from OpenMoji, without one in five.)
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image

from core.bundled.recipe import sample_domain
from core.bundled.recipe.drawings import CLASS_TABLE, read_classes, render_set
from core.bundled.recipe.packages import OPENMOJI, Package
from core.evaluation.classifier import IMAGE_SIZE
from core.evaluation.drawings import Drawings, is_held_out, to_bytes

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
}
"""CC BY-SA 4.0, CC BY 4.0 and MIT."""


@dataclass(frozen=True)
class Domain:
    name: str
    seen: Drawings
    held_out: Drawings


def load(name: str, cache: Path) -> Domain:
    """Fetches a set into `cache` where it is not there yet. Raises ValueError when its digest is not the pinned one."""
    sample = read_classes(sample_domain.TABLE, cache)
    chosen = {one.name for members in sample.values() for one in members}
    labels = sorted(sample)
    classes = {label: one for label, one in read_classes(CLASS_TABLE, cache).items() if label in labels}
    drawn = list(render_set(SETS[name], classes, cache, IMAGE_SIZE))
    seen = [one for one in drawn if one[1] in chosen and not is_held_out(one[1])]
    unseen = [one for one in drawn if one[1] not in chosen or is_held_out(one[1])]
    return Domain(name, *(_drawings(part, tuple(labels)) for part in (seen, unseen)))


def _drawings(drawn: list[tuple[str, str, Image.Image]], labels: tuple[str, ...]) -> Drawings:
    return Drawings(
        pixels=to_bytes([picture for _, _, picture in drawn], IMAGE_SIZE),
        labels=torch.tensor([labels.index(label) for label, _, _ in drawn]),
        emoji=tuple(name for _, name, _ in drawn),
        sets=("",) * len(drawn),
        class_names=labels,
    )
