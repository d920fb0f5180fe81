"""Checks of accepted images for what usually spoils a fine-tune. They reject nothing, but add warnings to the
report."""

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
from PIL import Image

from core.service.datasets.images import Picture
from core.service.datasets.report import Member, Remark, Report

WARNINGS = ("near_duplicate", "tiny", "blank", "extreme_aspect", "colours_converted")
"""Codes of the warnings about single images."""
TINY_SIDE = 64
LONG_SIDES = 3
"""Ratio of an image's sides from which training sees no more than a third of the image."""
_BLANK_RANGE = 8
"""Max difference between the values of a colour channel, 0 to 255, in an image without content."""
_BITS, _COLOURS = 4, 6.0
"""Max number of different bits of 64 in the difference hashes of near-duplicates, and max mean difference of their
colours, 0 to 255."""
FEW_IMAGES = 5
MOST_UNBALANCED = 10
"""Ratio of the images of the largest and the smallest class from which the classes are unbalanced."""


def look(square: Image.Image) -> str:
    """Returns what a square image looks like: 8 bytes of difference hash, which has a bit for each pair of neighbours
    in a grey 9x8 miniature, and 48 bytes with the colours of a 4x4 miniature, in hex."""
    box = Image.Resampling.BOX
    grey = np.asarray(square.resize((9, 8), box).convert("L")).astype(np.int16)
    bits = np.packbits(grey[:, 1:] > grey[:, :-1])
    return bits.tobytes().hex() + np.asarray(square.resize((4, 4), box)).tobytes().hex()


def of_image(picture: Picture) -> dict[str, Any]:
    """Returns the warnings about one image, by their code."""
    details = {}
    sides = sorted((picture.width, picture.height))
    size = f"{picture.width}x{picture.height}"
    if sides[0] < TINY_SIDE:
        details["tiny"] = f"It has {size} pixels, so training enlarges it, which blurs it. Use a larger original."
    if sides[1] >= LONG_SIDES * sides[0]:
        details["extreme_aspect"] = (
            f"It has {size} pixels, and training sees only the centered square. Crop it to what matters."
        )
    extrema: Any = picture.square.getextrema()
    if all(high - low <= _BLANK_RANGE for low, high in extrema):
        details["blank"] = "All its pixels have nearly the same colour."
    if picture.colours is not None:
        details["colours_converted"] = f"Its colours were converted from {picture.colours} to sRGB. Check them."
    return {code: {"detail": detail, "image": None} for code, detail in details.items()}


def completed(report: Report) -> Report:
    """Returns the report with the warnings that compare images or classes with each other."""
    originals = _near_duplicates([member.look for member in report.members])
    members = []
    for index, member in enumerate(report.members):
        warnings = {code: warning for code, warning in member.warnings.items() if code != "near_duplicate"}
        if (original := originals.get(index)) is not None:
            detail = f"It looks like {report.members[original].file}. Remove one of them."
            warnings["near_duplicate"] = {"detail": detail, "image": original + 1}
        members.append(replace(member, warnings=warnings))
    return replace(report, members=members, warnings=report.warnings + _shared(members) + _class_sizes(report))


def _near_duplicates(looks: list[str]) -> dict[int, int]:
    """Returns the index of an earlier image for each image that looks like it. Images with an empty look have no
    near-duplicates. Takes time in proportion to the square of the number of images: half a second for 20,000 photos,
    and half a minute if all of them have the same hash, which an attacker can arrange."""
    hashes, colours = np.zeros(len(looks), np.uint64), np.zeros((len(looks), 48), np.int16)
    firsts: list[int] = []
    originals = {}
    for index, text in enumerate(looks):
        if not text:
            continue
        data = bytes.fromhex(text)
        hash, colour = np.frombuffer(data[:8], np.uint64)[0], np.frombuffer(data[8:], np.uint8)
        count = len(firsts)
        places = np.flatnonzero(np.bitwise_count(hashes[:count] ^ hash) <= _BITS)
        alike = places[np.abs(colours[places] - colour).sum(1) <= 48 * _COLOURS]
        if len(alike):
            originals[index] = firsts[alike[0]]
        else:
            hashes[count], colours[count] = hash, colour
            firsts.append(index)
    return originals


def _shared(members: list[Member]) -> list[Remark]:
    """Returns a warning if identical images occur in several classes; otherwise an empty list."""
    classes: dict[str, set[int]] = {}
    for member in members:
        classes.setdefault(member.sha256, set()).add(member.class_id)
    first = next((member for member in members if len(classes[member.sha256]) > 1), None)
    if first is None:
        return []
    count = sum(len(ids) > 1 for ids in classes.values())
    detail = f"{count} images occur in several classes, and each class is trained on them. This is the first."
    return [Remark(first.file[:500], "in_several_classes", detail)]


def _class_sizes(report: Report) -> list[Remark]:
    """Returns warnings about classes with very few images, and about classes of very different sizes."""
    counts = Counter(member.class_id for member in report.members)
    remarks = []
    small = [f"'{report.class_names[id]}' ({count})" for id, count in sorted(counts.items()) if count < FEW_IMAGES]
    if small:
        some = ", ".join(small[:5]) + (f" and {len(small) - 5} more" if len(small) > 5 else "")
        detail = f"Classes with fewer than {FEW_IMAGES} images: {some}. Training copies so few images. Add more."
        remarks.append(Remark(None, "few_images", detail))
    (least, low), (most, high) = min(counts.items(), key=_by_count), max(counts.items(), key=_by_count)
    if high >= MOST_UNBALANCED * low:
        names = report.class_names
        detail = (
            f"The class '{names[most]}' has {high} images, '{names[least]}' only {low}. Training shows the small class "
            "rarely. Add images to it, or remove some of the large class."
        )
        remarks.append(Remark(None, "unbalanced_classes", detail))
    return remarks


def _by_count(item: tuple[int, int]) -> int:
    return item[1]
