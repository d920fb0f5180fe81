"""Meaning of the paths in a zip: which files are images, of which class, and which files are something else."""

import contextlib
import re
import stat
import unicodedata
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from core.artifact.manifest import is_text
from core.service.datasets.images import Refused
from core.service.datasets.labels import Labels, Read, read_labels
from core.service.datasets.report import Remark

IMAGE_SUFFIXES = {
    *(".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp", ".tif", ".tiff", ".gif"),
    *(".avif", ".heic", ".heif"),
}
LABEL_SUFFIXES = {".csv", ".tsv", ".json", ".jsonl", ".xml", ".yaml", ".yml", ".parquet"}
_NOTE_SUFFIXES = {".txt", ".md", ".rst", ".toml", ".ini", ".db", ".log", ".caption", ".xmp", ".aae", ".url", ".lnk"}
_CLUTTER = {"thumbs.db", "desktop.ini", "__macosx", "@eadir", "$recycle.bin", "readme", "license", "icon\r"}
_SPLITS = {"train", "training", "val", "valid", "validation", "test", "testing"}
_NAME_LENGTH = 100
_LONGEST_DECOMPOSED = 4 * _NAME_LENGTH
"""Max characters of a class name before it is normalized, which takes quadratic time. No character of the composed form
stands for more than four."""
_UTF8_FLAG, _ENCRYPTED_FLAG = 0x800, 0x1
_COMPRESSIONS = {9: "Deflate64", 12: "bzip2", 14: "LZMA", 93: "Zstandard", 95: "XZ", 98: "PPMd"}
_AES = 99


@dataclass(frozen=True)
class Candidate:
    """File of a zip that may be an image, with either its class name or the reason why the file is rejected."""

    info: zipfile.ZipInfo
    path: str
    class_name: str = ""
    problem: Refused | None = None


@dataclass(frozen=True)
class Layout:
    candidates: list[Candidate]
    """Files that may be images, in the order of the zip's index."""
    ignored: int
    """Number of files that are not images: notes, labels, and files of operating systems."""
    warnings: list[Remark]


def entry_path(info: zipfile.ZipInfo) -> str:
    """Returns the path of a zip entry, with forward slashes. A name without the zip format's flag for UTF-8 is read as
    UTF-8 if it is valid UTF-8, since macOS omits the flag; otherwise as code page 437, the zip format's default."""
    name = info.orig_filename
    if not info.flag_bits & _UTF8_FLAG:
        with contextlib.suppress(UnicodeError):
            name = name.encode("cp437").decode()
    return name.replace("\\", "/")


def arrange(infos: Iterable[zipfile.ZipInfo], read: Read) -> Layout:
    """Assigns each file of a zip to a class by its class folder or, where a label file names images, by that file, or
    rejects the file with a reason. `read` reads label files.

    Folders around all class folders are skipped, and split folders such as train and val are merged. The paths of image
    files decide, by majority, at which level the class folders are, so that notes and a few misplaced images do not
    interfere.
    """
    files = [(info, path) for info in infos if not (path := entry_path(info)).endswith("/")]
    kept = [(info, path) for info, path in files if _is_unsafe(path) or not _is_ignored(path)]
    usable = [path for _, path in kept if not _is_unsafe(path)]
    labels = read_labels([file for file in files if not _is_clutter(file[1])], usable, read)
    safe = [PurePosixPath(path).parts for path in usable if not labels.covers(path)]
    meant = [parts for parts in safe if PurePosixPath(parts[-1]).suffix.lower() in IMAGE_SUFFIXES] or safe
    depth, splits = _depth(meant)
    candidates: list[Candidate] = []
    paths: set[str] = set()
    for info, path in kept:
        try:
            name = _class_of(info, path, depth, labels, paths)
        except Refused as refused:
            # PostgreSQL cannot store NUL, and the path of a rejected file is only displayed.
            candidates.append(Candidate(info, path.replace("\0", "\N{REPLACEMENT CHARACTER}"), problem=refused))
        else:
            candidates.append(Candidate(info, path, name))
    kept_paths = {path for _, path in kept}
    ignored = [path for _, path in files if path not in kept_paths]
    return Layout(candidates, len(ignored), _warnings(ignored, kept_paths, splits, labels))


def _is_unsafe(path: str) -> bool:
    parts = PurePosixPath(path).parts
    return not parts or bool({"/", "//", ".."} & set(parts)) or "\0" in path or bool(re.match("[A-Za-z]:", path))


def _is_ignored(path: str) -> bool:
    return _is_clutter(path) or PurePosixPath(path).suffix.lower() in _NOTE_SUFFIXES | LABEL_SUFFIXES


def _is_clutter(path: str) -> bool:
    return any(part.startswith(".") or part.lower() in _CLUTTER for part in PurePosixPath(path).parts)


def _depth(paths: Sequence[tuple[str, ...]]) -> tuple[int, list[str]]:
    """Returns the number of folder levels above the class folders. Also returns the names of the split folders (such as
    train and val) if the level just above the class folders consists of split folders."""
    depth = 0
    while True:
        folders = {parts[depth] for parts in paths if len(parts) > depth + 1}
        directly = sum(len(parts) == depth + 2 for parts in paths)
        deeper = sum(len(parts) > depth + 2 for parts in paths)
        if deeper <= directly:
            return depth, []
        if len(folders) > 1:
            splits = sorted(folders) if {name.lower() for name in folders} <= _SPLITS else []
            return depth + bool(splits), splits
        depth += 1


def _class_of(info: zipfile.ZipInfo, path: str, depth: int, labels: Labels, paths: set[str]) -> str:
    """Returns the name of the class that a file belongs to, from a label file or the folder at level `depth` of its
    path. Adds the path to `paths`. Raises Refused for an unsafe or repeated path, a link, a file without a label or not
    directly in a class folder, an encrypted file, and an unsupported compression."""
    if _is_unsafe(path):
        raise Refused("unsafe_path", "Its path leads outside the zip. Create the zip again with relative paths.")
    if stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG):
        raise Refused("link", "It is a link or a device, not a regular file.")
    name = class_name(_labelled(path, labels) if labels.covers(path) else _folder(path, depth))
    check_packing(info)
    if path in paths:
        raise Refused("duplicate_name", "Another file in the zip has the same path.")
    paths.add(path)
    return name


def _labelled(path: str, labels: Labels) -> str:
    if path not in labels.class_names:
        raise Refused("no_label", "The file with the classes does not name it. Add a line for it.")
    return labels.class_names[path]


def _folder(path: str, depth: int) -> str:
    parts = PurePosixPath(path).parts
    if len(parts) < depth + 2:
        raise Refused("no_class_folder", "It is not in a class folder. Move it into one.")
    if len(parts) > depth + 2:
        raise Refused("no_class_folder", "It is in a folder inside a class folder. Move it into the class folder.")
    return parts[depth]


def check_packing(info: zipfile.ZipInfo) -> None:
    """Raises Refused for an entry of a zip that is encrypted, or compressed by an unsupported method."""
    if info.flag_bits & _ENCRYPTED_FLAG or info.compress_type == _AES:
        raise Refused("encrypted", "It is encrypted. Create the zip without a password.")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        # zipfile inflates other methods without a bound: less than a kilobyte of bzip2 can fill the memory.
        method = _COMPRESSIONS.get(info.compress_type, f"method {info.compress_type}")
        raise Refused(
            "compression", f"It is compressed with {method}, which is not supported. Use deflate, the usual method."
        )


def class_name(text: str) -> str:
    """Returns the class name for the name of a folder or for a label: NFC-normalized, with every kind of space replaced
    by a plain space. Raises Refused for a name that is too long or blank, contains control characters, or cannot be the
    name of a folder."""
    name = "".join(" " if unicodedata.category(character) == "Zs" else character for character in text).strip()
    if len(name) <= _LONGEST_DECOMPOSED:
        name = unicodedata.normalize("NFC", name)
    if len(name) > _NAME_LENGTH:
        detail = f"Its class name has {len(name)} characters; at most {_NAME_LENGTH} are allowed. Rename the class."
        raise Refused("class_name_too_long", detail)
    if not name:
        raise Refused("class_name", "Its class name is blank. Rename the class.")
    if not is_text(name):
        hidden = next(character for character in name if not is_text(character))
        detail = f"Its class name contains the character U+{ord(hidden):04X}, which is not allowed. Rename the class."
        raise Refused("class_name", detail)
    if "/" in name or "\\" in name or name.startswith("."):
        raise Refused("class_name", f"'{name}' cannot be the name of a folder. Rename the class.")
    return name


def _warnings(ignored: Sequence[str], kept: Iterable[str], splits: Sequence[str], labels: Labels) -> list[Remark]:
    warnings: list[Remark] = []
    if labels.used:
        first, *others = labels.used
        files = f"this file and {len(others)} more" if others else "this file"
        detail = f"The classes of {len(labels.class_names)} images come from {files}, whatever their folders are."
        warnings.append(Remark(first[:500], "labels_read", detail))
    if splits:
        detail = f"The folders {', '.join(splits)} were merged: the folders inside them are the classes."
        warnings.append(Remark(None, "splits_joined", detail))
    visible = [path for path in ignored if not any(part.startswith((".", "__")) for part in path.split("/"))]
    unread = [path for path in visible if PurePosixPath(path).suffix.lower() in LABEL_SUFFIXES]
    unread = [path for path in unread if path not in labels.used]
    if unread:
        reason = labels.problems.get(unread[0], "")
        detail = "It is ignored. Classes come from folders, or from a labels.csv with `file_name` and `class_name`."
        warnings.append(Remark(unread[0][:500], "labels_not_read", f"{reason} {detail}".strip()))
    stems = {str(PurePosixPath(path).with_suffix("")) for path in kept if PurePosixPath(path).name}
    notes = [path for path in visible if PurePosixPath(path).suffix.lower() in {".txt", ".caption"}]
    captions = [path for path in notes if str(PurePosixPath(path).with_suffix("")) in stems]
    if captions:
        detail = f"{len(captions)} caption files are ignored: training uses only the classes."
        warnings.append(Remark(captions[0][:500], "captions_not_read", detail))
    return warnings
