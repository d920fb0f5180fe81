"""Packing of folders for upload: which files are included and which are skipped."""

import io
import zipfile
from pathlib import Path

from PIL import Image

from difffit.archives import left_out, left_out_note, pack


def test_note_names_the_files_that_pack_skips(tmp_path: Path) -> None:
    for name in ("cat/1.png", "cat/.hidden.png", "cat/1.txt", "labels.csv", ".DS_Store"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    packed = io.BytesIO()
    pack(tmp_path, packed)
    assert zipfile.ZipFile(packed).namelist() == ["cat/1.png"]
    assert left_out(tmp_path) == [Path("cat/1.txt"), Path("labels.csv")]
    assert "cat/1.txt and 1 more files are not used" in (left_out_note(tmp_path) or "")


def test_no_note_for_a_zip_or_a_folder_of_images(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "1.png")
    assert left_out_note(tmp_path) is None
    assert left_out_note(tmp_path / "1.png") is None
