"""Zips of common tools: names, folders, and other files next to the images."""

import io
import json
import struct
import time
import zipfile
import zlib

import pytest

from core.artifact.manifest import is_text
from core.service.datasets import archive
from core.service.datasets.archive import inspect, read_images, validate
from core.service.datasets.layout import arrange
from core.service.datasets.report import Report
from core.service.errors import ArchiveInvalid
from tests.core.service.zips import GOOD, LIMITS, picture, zipped


def checked(files: dict[str, bytes]) -> Report:
    """Returns the report on a zip, without the warning that it has few images, as the zips of these tests have."""
    inspect(zipped(files), LIMITS)
    report = validate(zipped(files), LIMITS)
    report.warnings = [warning for warning in report.warnings if warning.code != "few_images"]
    return report


def raw_zip(files: dict[bytes, bytes], flags: int = 0, method: int = 0) -> io.BytesIO:
    """Returns a zip of stored entries with the given names, flags and method."""
    body = index = b""
    for name, data in files.items():
        sums = struct.pack("<III", zlib.crc32(data), len(data), len(data))
        fields = struct.pack("<HHHHH", 20, flags, method, 0, 33) + sums + struct.pack("<HH", len(name), 0)
        index += (
            b"PK\1\2" + struct.pack("<H", 0x31E) + fields + struct.pack("<HHHII", 0, 0, 0, 0o100644 << 16, len(body))
        )
        index += name
        body += b"PK\3\4" + fields + name + data
    end = struct.pack("<HHHHIIH", 0, 0, len(files), len(files), len(index), len(body), 0)
    return io.BytesIO(body + index + b"PK\5\6" + end)


@pytest.mark.parametrize(
    ("name", "flags", "class_name"),
    [
        ("Bäume".encode(), 0, "Bäume"),
        ("Bäume".encode(), 0x800, "Bäume"),
        ("Ba\u0308ume".encode(), 0, "Bäume"),
        (b"B\x84ume", 0, "Bäume"),  # code page 437
        ("\u6728".encode(), 0, "\u6728"),
    ],
)
def test_class_is_named_in_the_encoding_that_its_zip_uses(name: bytes, flags: int, class_name: str) -> None:
    file = raw_zip({name + b"/1.png": picture(1), name + b"/2.png": picture(2)}, flags)
    inspect(file, LIMITS)
    report = validate(file, LIMITS)
    assert report.class_names == [class_name]
    assert len(list(read_images(file, [member.to_json() for member in report.members], LIMITS))) == 2


def test_backslashes_separate_folders() -> None:
    file = raw_zip({b"cats\\1.png": picture(1), b"dogs\\2.png": picture(2), b"..\\..\\x.png": picture(3)})
    report = validate(file, LIMITS)
    assert report.class_names == ["cats", "dogs"]
    assert [(rejected.file, rejected.code) for rejected in report.rejected] == [("../../x.png", "unsafe_path")]
    assert len(list(read_images(file, [member.to_json() for member in report.members], LIMITS))) == 2


@pytest.mark.parametrize("path", ["C:\\cat\\9.png", "/cat/9.png", "\\\\server\\cat\\9.png", "cat/../../9.png"])
def test_path_that_leads_outside_is_rejected(path: str) -> None:
    files = {name.encode(): data for name, data in GOOD.items()} | {path.encode(): picture(9)}
    assert [rejected.code for rejected in validate(raw_zip(files), LIMITS).rejected] == ["unsafe_path"]


@pytest.mark.parametrize(
    "name",
    [
        "\U0001f468\u200d\U0001f469\u200d\U0001f467",
        "\u0646\u0627\u0645\u0647\u200c\u0647\u0627",
        "\u2764\ufe0f",
        "\U0001f3f4\U000e0067\U000e0062\U000e007f",
        "a" * 100,
    ],
)
def test_class_name_with_joined_characters_is_accepted(name: str) -> None:
    report = checked({f"{name}/1.png": picture(1), f"{name}/2.png": picture(2)})
    assert report.class_names == [name]
    assert is_text(name), "an adapter's manifest accepts the same names"


def test_no_break_space_counts_as_a_space() -> None:
    report = checked({"two words/1.png": picture(1), "two\u00a0words/2.png": picture(2), "b/3.png": picture(3)})
    assert report.class_names == ["b", "two words"]


@pytest.mark.parametrize(
    ("name", "code"),
    [("a" * 101, "class_name_too_long"), ("\u202egnp", "class_name"), ("a\x1b[2J", "class_name"), (" ", "class_name")],
)
def test_invalid_class_name_is_reported(name: str, code: str) -> None:
    assert [rejected.code for rejected in checked(GOOD | {f"{name}/9.png": picture(9)}).rejected] == [code]
    with pytest.raises(ArchiveInvalid) as caught:
        inspect(zipped({f"{name}/1.png": picture(1), f"{name}/2.png": picture(2)}), LIMITS)
    assert caught.value.code == code


@pytest.mark.parametrize("beside", ["set/loose.png", "loose.png"])
def test_loose_image_does_not_hide_wrapped_classes(beside: str) -> None:
    report = checked({f"set/{name}": data for name, data in GOOD.items()} | {beside: picture(9)})
    assert report.class_names == ["cat", "dog"]
    assert [(rejected.file, rejected.code) for rejected in report.rejected] == [(beside, "no_class_folder")]


@pytest.mark.parametrize("note", ["README.txt", "notes/more.md", ".DS_Store", "__MACOSX/set/cat/._1.png"])
def test_note_next_to_a_wrapper_is_ignored(note: str) -> None:
    report = checked({f"set/{name}": data for name, data in GOOD.items()} | {note: b"hello"})
    assert (report.class_names, report.rejected, report.ignored) == (["cat", "dog"], [], 1)


def test_several_folders_around_the_classes_are_skipped() -> None:
    report = checked({f"home/me/set/{name}": data for name, data in GOOD.items()})
    assert (report.class_names, report.warnings) == (["cat", "dog"], [])


@pytest.mark.parametrize("around", ["", "set/"])
def test_splits_are_joined_with_a_warning(around: str) -> None:
    files = {f"{around}{split}/{name}": data for split in ("train", "Val") for name, data in GOOD.items()}
    files[f"{around}Val/dog/9.png"] = picture(9)
    report = checked(files)
    assert report.classes_json() == [{"id": 0, "name": "cat", "images": 2}, {"id": 1, "name": "dog", "images": 2}]
    assert [warning.code for warning in report.warnings] == ["splits_joined"]
    assert {rejected.code for rejected in report.rejected} == {"duplicate"}


def test_nested_folders_are_rejected_with_the_reason() -> None:
    files = {"animals/cat/1.png": picture(1), "plants/rose/2.png": picture(2)}
    with pytest.raises(ArchiveInvalid, match="nested folders") as caught:
        inspect(zipped(files), LIMITS)
    assert caught.value.code == "no_class_folders"


def labelled(name: str, *lines: str, around: str = "", **files: bytes) -> Report:
    """Returns the report on a zip with a label file and images, in a folder `around` them."""
    pictures = {"1.png": picture(1), "2.png": picture(2), "deep/3.png": picture(3)}
    text = "\n".join(lines).encode()
    return checked({f"{around}{path}": data for path, data in {name: text, **pictures, **files}.items()})


def classes(report: Report) -> dict[str, str]:
    return {member.file: report.class_names[member.class_id] for member in report.members}


@pytest.mark.parametrize("around", ["", "set/", "home/my set/"])
@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("labels.csv", ["file_name,class_name", "1.png,cat", "./2.png,dog", "deep\\3.png,cat"]),
        ("Labels.CSV", ["\ufeffFilename; Label ", "1.png;cat", "2.png;dog", "deep/3.png;cat", "gone.png;owl"]),
        ("metadata.csv", ["label,text,file_name", 'cat,"a, b",1.png', "dog,,2.png", "cat,,3.png"]),
        (
            "metadata.jsonl",
            [
                '{"file_name": "1.png", "class_name": "cat", "label": "the cover"}', "",
                '{"file_name": "2.png", "class_name": "dog", "label": null}',
                '{"file_name": "deep/3.png", "class_name": "cat", "favourite": true}',
            ],
        ),
    ],
    ids=["labels", "semicolons", "metadata", "jsonl"],
)  # fmt: skip
def test_classes_are_read_from_a_label_file(around: str, name: str, lines: list[str]) -> None:
    report = labelled(name, *lines, around=around)
    expected = {"1.png": "cat", "2.png": "dog", "deep/3.png": "cat"}
    assert classes(report) == {f"{around}{path}": name for path, name in expected.items()}
    assert [(warning.code, warning.file) for warning in report.warnings] == [("labels_read", f"{around}{name}")]
    assert (report.rejected, report.ignored) == ([], 1)


def test_numbers_are_class_names_too() -> None:
    lines = [f'{{"file_name": "{file}", "label": {label}}}' for file, label in (("1.png", 0), ("2.png", 1))]
    assert classes(labelled("metadata.jsonl", *lines, '{"file_name": "deep/3.png", "label": 1}')) == {
        "1.png": "0", "2.png": "1", "deep/3.png": "1"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "lines", "reason"),
    [
        ("labels.csv", ["file_name,class_name", "1.png,cat"], "names 1 of the 3 images"),
        ("labels.csv", ["file_name,class_name", "a.png,cat"], "names 0 of the 3 images"),
        ("labels.csv", ["name,kind", "1.png,cat", "2.png,cat"], "has no columns"),
        ("metadata.jsonl", ['{"file_name": "1.png", "text": "a cat"}'], "has no columns"),
        ("metadata.jsonl", ["[" * 100_000], "cannot be read"),
        ("metadata.jsonl", ["[]"], "cannot be read"),
        ("labels.csv", ['file_name,class_name\n"' + "x" * 200_000], "cannot be read"),
    ],
)
def test_label_file_that_does_not_fit_is_ignored_with_the_reason(name: str, lines: list[str], reason: str) -> None:
    text = "\n".join(lines).encode()
    report = checked({name: text, "cat/1.png": picture(1), "cat/2.png": picture(2), "dog/3.png": picture(3)})
    assert report.class_names == ["cat", "dog"]
    (warning,) = report.warnings
    assert (warning.code, warning.file) == ("labels_not_read", name)
    assert reason in warning.detail


def test_labels_are_checked_like_folders_and_decide_within_theirs() -> None:
    files = {
        "train/metadata.jsonl": b'{"file_name": "1.png", "label": "owl"}\n{"file_name": "2.png", "label": "a/b"}',
        "train/1.png": picture(1),
        "train/2.png": picture(2),
        "train/3.png": picture(3),
        "val/metadata.csv": b"file_name,label\n4.png,owl\n",
        "val/4.png": picture(4),
    }
    report = checked(files)
    assert classes(report) == {"train/1.png": "owl", "val/4.png": "owl"}
    assert {rejected.file: rejected.code for rejected in report.rejected} == {
        "train/2.png": "class_name", "train/3.png": "no_label"
    }  # fmt: skip
    (warning,) = report.warnings
    assert "3 images come from this file and 1 more" in warning.detail


def test_name_without_a_folder_stands_for_one_image_only() -> None:
    lines = ["file_name,label", "1.png,cat", "2.png,cat", "3.png,dog"]
    report = labelled("labels.csv", *lines, **{"other/3.png": picture(9)})
    assert classes(report) == {"1.png": "cat", "2.png": "cat"}
    assert {rejected.code for rejected in report.rejected} == {"no_label"}


def test_large_label_files_are_not_inflated() -> None:
    text = b"file_name,class_name\n1.png,cat\n2.png,cat\n" + b"\n" * 2**23
    with pytest.raises(ArchiveInvalid) as caught:
        inspect(zipped({"labels.csv": text, "1.png": picture(1), "2.png": picture(2)}), LIMITS)
    assert caught.value.code == "no_class_folders"


ACCENTS = "\u0301" * 2_000_000 + "\u0316" * 2_000_000
"""Combining characters whose normalization takes more than a day."""


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("labels.csv", "file_name,class_name" + ",x" * 2_000_000 + "\n1" * 2_000_000, "2,000,002 columns; at most 100"),
        ("labels.csv", "file_name,class_name" + ",x" * 98 + "\n1" * 4_000_000, "has no columns"),
        ("labels.csv", "file_name,class_name\n" + f"{ACCENTS[1_990_000:2_010_000]}.png,cat\n" * 150, "names 0 of"),
        ("metadata.jsonl", json.dumps({"file_name": f"{ACCENTS}.png", "label": "x"}, ensure_ascii=False), "names 0 of"),
        ("metadata.jsonl", '{"file_name": "1", "label": "2", "a": %s}' % ("[" * 4_000_000), "cannot be read"),
        ("metadata.jsonl", '{"file_name": "1", "label": %s}' % ("9" * 8_000_000), "cannot be read"),
        ("metadata.jsonl", json.dumps(dict.fromkeys(range(400_000), 1)), "has no columns"),
    ],
    ids=["columns", "short rows", "names", "long name", "nesting", "number", "keys"],
)
def test_label_file_takes_time_in_proportion_to_its_size(name: str, text: str, reason: str) -> None:
    started = time.monotonic()
    report = checked({name: text.encode(), "cat/1.png": picture(1), "cat/2.png": picture(2)})
    assert time.monotonic() - started < 120, "anything that is not in proportion takes hours"
    (warning,) = report.warnings
    assert reason in warning.detail


def test_long_class_names_are_refused_without_normalizing_them() -> None:
    lines = [json.dumps({"file_name": f"{number}.png", "label": ACCENTS[::2]}, ensure_ascii=False) for number in (1, 2)]
    with pytest.raises(ArchiveInvalid, match="2000000 characters") as caught:
        labelled("metadata.jsonl", *lines)
    assert caught.value.code == "class_name_too_long"


def test_paths_in_decomposed_form_are_named_by_composed_labels() -> None:
    files = {f"Ba\u0308ume/{name}": data for name, data in (("u\u0308.png", picture(1)), ("o\u0308.png", picture(2)))}
    report = checked({**files, "Ba\u0308ume/labels.csv": "file_name,label\nü.png,Öl\nö.png,O\u0308l\n".encode()})
    assert classes(report) == dict.fromkeys(files, "Öl")


def test_labels_and_captions_are_warned_about() -> None:
    files = {"images/1.png": picture(1), "images/2.png": picture(2), "labels.csv": b"x", "images/1.txt": b"a cat"}
    report = checked(files)
    assert (report.class_names, report.ignored) == (["images"], 2)
    assert {(warning.code, warning.file) for warning in report.warnings} == {
        ("labels_not_read", "labels.csv"),
        ("captions_not_read", "images/1.txt"),
    }


def test_image_in_two_classes_is_used_for_both_with_a_warning() -> None:
    report = checked(GOOD | {"dog/copy.png": GOOD["cat/1.png"]})
    assert report.rejected == []
    assert [(warning.code, warning.file) for warning in report.warnings] == [("in_several_classes", "cat/1.png")]


@pytest.mark.parametrize(("method", "name"), [(9, "Deflate64"), (14, "LZMA"), (93, "Zstandard"), (98, "PPMd")])
def test_unsupported_compression_is_reported(method: int, name: str) -> None:
    file = raw_zip({b"a/1.png": picture(1), b"a/2.png": picture(2)}, method=method)
    for check in (inspect, validate):
        with pytest.raises(ArchiveInvalid, match=name) as caught:
            check(file, LIMITS)
        assert caught.value.code == "compression"


@pytest.mark.parametrize(("flags", "method"), [(1, 0), (0, 99)])
def test_encryption_is_reported(flags: int, method: int) -> None:
    file = raw_zip({b"a/1.png": picture(1), b"a/2.png": picture(2)}, flags, method)
    for check in (inspect, validate):
        with pytest.raises(ArchiveInvalid, match="password") as caught:
            check(file, LIMITS)
        assert caught.value.code == "encrypted"


def test_changed_member_is_named() -> None:
    members = [member.to_json() for member in checked(GOOD).members]
    with pytest.raises(ArchiveInvalid, match="cat/2") as caught:
        list(read_images(zipped(GOOD | {"cat/2.png": picture(9)}), members, LIMITS))
    assert caught.value.code == "changed"
    with pytest.raises(ArchiveInvalid, match="dog/1") as caught:
        list(read_images(zipped({name: GOOD[name] for name in ("cat/1.png", "cat/2.png")}), members, LIMITS))
    assert caught.value.code == "missing"


def test_members_of_earlier_releases_are_read() -> None:
    """They have no SHA-256, and the name as zipfile decodes it without the UTF-8 flag."""
    file = raw_zip({"Bäume/1.png".encode(): picture(1), b"cats\\2.png": picture(2)})
    with zipfile.ZipFile(file) as opened:
        members = [{"file": name, "class_id": id} for id, name in enumerate(opened.namelist())]
    assert [image.getpixel((0, 0)) for _, image in read_images(file, members, LIMITS)] == [(1, 0, 7), (2, 0, 7)]


def test_first_of_two_entries_with_one_path_is_read() -> None:
    file = raw_zip({b"a/1.png": picture(1), b"a\\1.png": picture(2), b"a/2.png": picture(3)})
    report = validate(file, LIMITS)
    assert [rejected.code for rejected in report.rejected] == ["duplicate_name"]
    images = read_images(file, [member.to_json() for member in report.members], LIMITS)
    assert [image.getpixel((0, 0)) for _, image in images] == [(1, 0, 7), (3, 0, 7)]


def test_total_pixels_of_a_zip_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "_ALWAYS_PIXELS", 10_000)
    monkeypatch.setattr(archive, "_PIXELS_PER_BYTE", 1)
    bombs = {f"cat/{number}.png": picture(number, (90, 90)) for number in range(10, 20)}
    with pytest.raises(ArchiveInvalid, match="10,000 pixels") as caught:
        validate(zipped(GOOD | bombs), LIMITS)
    assert caught.value.code == "too_many_pixels_in_all"


def test_rejected_path_with_a_nul_can_be_stored() -> None:
    info = zipfile.ZipInfo("cat/a.png")
    info.orig_filename = "cat/a.png\0.exe"
    (candidate,) = arrange([info], lambda _: b"").candidates
    assert candidate.problem is not None
    assert (candidate.problem.code, candidate.path) == ("unsafe_path", "cat/a.png\N{REPLACEMENT CHARACTER}.exe")
