"""Drawings from folders, split by emoji."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from core.ml.evaluation.drawings import is_held_out, joined, read_drawings, to_bytes


def write(folder: Path, names: list[str]) -> Path:
    for number, name in enumerate(names):
        path = folder / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (128, 128), (number, 0, 0)).save(path)
    return folder


def test_class_set_and_emoji_are_read_from_file_names(tmp_path: Path) -> None:
    drawings = read_drawings(write(tmp_path, ["pear/noto--a-pear", "apple/red--apple", "apple/green"]), 8)
    assert drawings.class_names == ("apple", "pear")
    assert drawings.labels.tolist() == [0, 0, 1]
    assert drawings.emoji == ("green", "apple", "a-pear")
    assert drawings.sets == ("", "red", "noto")
    assert drawings.pixels.shape == (3, 3, 8, 8)
    assert drawings.pixels[:, 0, 0, 0].tolist() == [2, 1, 0]


def test_held_out_emoji_are_held_out_of_every_set(tmp_path: Path) -> None:
    emoji = [f"emoji-{number}" for number in range(40)]
    drawings = read_drawings(
        write(tmp_path, [f"a/{set_}--{name}" for set_ in ("noto", "twemoji") for name in emoji]), 8
    )
    seen, held_out = drawings.split()
    assert len(seen) + len(held_out) == 80
    assert set(held_out.emoji) == {name for name in emoji if is_held_out(name)}
    assert not set(seen.emoji) & set(held_out.emoji)
    assert len(held_out) == 2 * len(set(held_out.emoji)) > 0
    assert held_out.class_names == drawings.class_names


def test_about_a_fifth_of_the_emoji_is_held_out() -> None:
    fraction = sum(is_held_out(f"emoji-{number}") for number in range(3000)) / 3000
    assert 0.17 < fraction < 0.23


def test_only_sets_with_equal_classes_are_joined(tmp_path: Path) -> None:
    first, second = (read_drawings(write(tmp_path / name, ["a/x", "b/y"]), 8) for name in ("one", "two"))
    both = joined(first, second)
    assert both.labels.tolist() == [0, 1, 0, 1]
    assert (both.emoji, both.sets) == (("x", "y") * 2, ("",) * 4)
    other = read_drawings(write(tmp_path / "three", ["a/x"]), 8)
    with pytest.raises(ValueError, match="must have the same classes"):
        joined(first, other)


def test_error_about_an_empty_folder_names_the_command_that_fills_it(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"run recipes\.drawings first"):
        read_drawings(tmp_path)


def test_transparent_pixels_become_white() -> None:
    assert torch.equal(to_bytes([Image.new("RGBA", (10, 20))], 4), torch.full((1, 3, 4, 4), 255, dtype=torch.uint8))
