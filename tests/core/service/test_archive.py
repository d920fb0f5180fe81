"""Validation of uploaded zips."""

import io
import stat
import zipfile

import pytest
from PIL import Image

from core.service.datasets.archive import Limits, inspect, read_images, validate
from core.service.errors import ArchiveInvalid
from tests.core.service.zips import GOOD, LIMITS, picture, zipped


def refused(files: dict[str, bytes]) -> dict[str, str]:
    """Returns the codes of rejected files by name, in a zip that also has two good classes."""
    return {rejected.file: rejected.code for rejected in validate(zipped(GOOD | files), LIMITS).rejected}


def test_valid_zip_is_accepted() -> None:
    report = validate(zipped(GOOD), LIMITS)
    assert report.classes_json() == [{"id": 0, "name": "cat", "images": 2}, {"id": 1, "name": "dog", "images": 1}]
    assert report.rejected == []
    images = list(read_images(zipped(GOOD), [member.to_json() for member in report.members], LIMITS))
    assert [class_id for class_id, _ in images] == [0, 0, 1]
    assert images[0][1].getpixel((0, 0)) == (1, 0, 7)


def test_digest_depends_on_the_files_and_not_on_the_zip() -> None:
    shuffled = dict(reversed(GOOD.items()))
    same = validate(zipped(shuffled, zipfile.ZIP_STORED), LIMITS).digest
    assert same == validate(zipped(GOOD), LIMITS).digest
    moved = {"dog/1.png": GOOD["cat/1.png"], "cat/2.png": GOOD["cat/2.png"], "cat/1.png": GOOD["dog/1.png"]}
    assert validate(zipped(moved), LIMITS).digest != same


def test_one_folder_around_the_classes_is_stripped() -> None:
    report = validate(zipped({f"my set/{name}": data for name, data in GOOD.items()}), LIMITS)
    assert report.class_names == ["cat", "dog"]


def test_class_ids_follow_the_normalized_names() -> None:
    names = {"e\u0301/1.png": picture(1), "f/1.png": picture(2), "\u00e9/2.png": picture(3)}
    report = validate(zipped(names), LIMITS)
    assert report.class_names == ["f", "\u00e9"]
    assert report.classes_json()[1]["images"] == 2


def test_files_of_operating_systems_are_ignored() -> None:
    litter = ("__MACOSX/cat/._1.png", "cat/.DS_Store", ".hidden/1.png", "cat/Thumbs.db", "dog/desktop.ini")
    assert refused(dict.fromkeys(litter, b"x")) == {}


@pytest.mark.parametrize(
    ("name", "data", "code"),
    [
        ("cat/copy.png", GOOD["cat/1.png"], "duplicate"),
        ("loose.png", picture(9), "no_class_folder"),
        ("cat/deep/1.png", picture(9), "no_class_folder"),
        ("../x.png", picture(9), "unsafe_path"),
        ("cat/a.svg", b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not_an_image"),
        ("cat/empty.png", b"", "not_an_image"),
        ("cat/inner.zip", zipped(GOOD).getvalue(), "not_an_image"),
        ("cat/cut.png", picture(9, (200, 200))[:100], "corrupt"),
        ("cat/wide.png", picture(9, (2000, 600)), "too_many_pixels"),
        ("cat/heavy.png", b"\x89PNG" + bytes(2**20), "too_large"),
    ],
)
def test_unusable_files_are_rejected_with_their_codes(name: str, data: bytes, code: str) -> None:
    assert refused({name: data}) == {name: code}


def test_animated_images_are_rejected() -> None:
    buffer = io.BytesIO()
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "blue")]
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:])
    assert refused({"cat/a.gif": buffer.getvalue()}) == {"cat/a.gif": "animated"}


def test_links_and_encrypted_files_are_rejected() -> None:
    buffer = zipped(GOOD)
    with zipfile.ZipFile(buffer, "a") as archive:
        link = zipfile.ZipInfo("cat/link.png")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
        archive.writestr("cat/secret.png", picture(9))
    data = bytearray(buffer.getvalue())
    data[data.rindex(b"cat/secret.png") - 46 + 8] |= 1  # the encryption flag in the central directory
    codes = {rejected.file: rejected.code for rejected in validate(io.BytesIO(data), LIMITS).rejected}
    assert codes == {"cat/link.png": "link", "cat/secret.png": "encrypted"}


def test_every_file_is_accepted_or_rejected() -> None:
    extra = {"cat/copy.png": GOOD["cat/1.png"], "cat/x.svg": b"x", "loose.png": picture(8), "cat/x.txt": b"x"}
    report = validate(zipped(GOOD | extra), LIMITS)
    assert len(report.members) + len(report.rejected) + report.ignored == len(GOOD) + len(extra)
    assert all(rejected.detail.endswith(".") for rejected in report.rejected)


@pytest.mark.parametrize(
    ("files", "code"),
    [
        ({}, "no_class_folders"),
        ({"a.png": picture(1), "b.png": picture(2)}, "no_class_folders"),
        ({"cat/1.png": picture(1)}, "too_few_images"),
        ({f"c{i}/1.png": picture(i) for i in range(6)}, "too_many_classes"),
        ({f"cat/{i}.png": b"" for i in range(51)}, "too_many_files"),
    ],
)
def test_unusable_zips_fail_immediately(files: dict[str, bytes], code: str) -> None:
    with pytest.raises(ArchiveInvalid) as caught:
        inspect(zipped(files), LIMITS)
    assert (caught.value.code, caught.value.status) == (code, 422)


@pytest.mark.parametrize("data", [b"", b"not a zip", zipped(GOOD).getvalue()[:-30]])
def test_other_files_are_not_a_zip(data: bytes) -> None:
    with pytest.raises(ArchiveInvalid, match="not a zip") as caught:
        inspect(io.BytesIO(data), LIMITS)
    assert caught.value.code == "not_a_zip"


def test_single_usable_image_is_too_few_and_the_rest_is_listed() -> None:
    with pytest.raises(ArchiveInvalid) as caught:
        validate(zipped({"cat/1.png": picture(1), "cat/2.png": b"x"}), LIMITS)
    assert caught.value.code == "too_few_images"
    assert [error["file"] for error in caught.value.errors] == ["cat/2.png"]


def test_zip_bomb_is_detected_by_its_inflated_size() -> None:
    limits = Limits(members=50, image_bytes=2**23, inflated_bytes=2**20, pixels=10**8, classes=5)
    with pytest.raises(ArchiveInvalid) as caught:
        validate(zipped(GOOD | {"cat/bomb.png": b"\x89PNG" + bytes(2**24)}), limits)
    assert caught.value.code == "inflates_too_large"
