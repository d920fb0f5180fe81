"""Packing of folders for upload: which files are included and which are skipped."""

import io
import zipfile
from pathlib import Path

import pytest
from PIL import Image

from difffit.archives import left_out, left_out_note, pack
from difffit.errors import InvalidInput


def test_note_names_the_files_that_pack_skips(tmp_path: Path) -> None:
    for name in ("cat/1.png", "cat/.hidden.png", "cat/1.txt", "classes.csv", ".DS_Store"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    packed = io.BytesIO()
    pack(tmp_path, packed)
    assert zipfile.ZipFile(packed).namelist() == ["cat/1.png"]
    assert left_out(tmp_path) == [Path("cat/1.txt"), Path("classes.csv")]
    first, *files, captions = (left_out_note(tmp_path) or "").splitlines()
    assert (files, "labels.csv" in first, captions[:1]) == (["  cat/1.txt", "  classes.csv"], True, "1")


def test_folder_with_labels_may_contain_its_images_itself(tmp_path: Path) -> None:
    for name in ("1.png", "deep/2.png", "Labels.csv", "deep/metadata.jsonl", ".labels.csv"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    packed = io.BytesIO()
    pack(tmp_path, packed)
    assert zipfile.ZipFile(packed).namelist() == ["1.png", "Labels.csv", "deep/2.png", "deep/metadata.jsonl"]
    assert left_out(tmp_path) == []


def test_linked_class_folders_are_packed_and_circles_end(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "1.jfif").write_bytes(b"x")
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "cat").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "again").symlink_to(tmp_path / "set")
    packed = io.BytesIO()
    pack(tmp_path / "set", packed)
    assert zipfile.ZipFile(packed).namelist() == ["cat/1.jfif"]


@pytest.mark.parametrize(
    ("file", "reason"), [("1.png", "so they have no class"), ("cat/1.cr2", "such as cat/1.cr2 cannot be read")]
)
def test_folders_without_usable_images_are_explained(tmp_path: Path, file: str, reason: str) -> None:
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_bytes(b"x")
    with pytest.raises(InvalidInput, match=reason):
        pack(tmp_path, io.BytesIO())


def test_no_note_for_a_zip_or_a_folder_of_images(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "1.png")
    assert left_out_note(tmp_path) is None
    assert left_out_note(tmp_path / "1.png") is None
