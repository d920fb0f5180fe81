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
from core.service.datasets.report import Remark

IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif"}
LABEL_SUFFIXES = {".csv", ".tsv", ".json", ".jsonl", ".xml", ".yaml", ".yml", ".parquet"}
_NOTE_SUFFIXES = {".txt", ".md", ".rst", ".toml", ".ini", ".db", ".log", ".caption", ".xmp", ".aae", ".url", ".lnk"}
_CLUTTER = {"thumbs.db", "desktop.ini", "__macosx", "@eadir", "$recycle.bin", "readme", "license", "icon\r"}
_SPLITS = {"train", "training", "val", "valid", "validation", "test", "testing"}
_NAME_LENGTH = 100
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


def arrange(infos: Iterable[zipfile.ZipInfo]) -> Layout:
    """Assigns each file of a zip to a class by its class folder, or rejects the file with a reason.

    Folders around all class folders are skipped, and split folders such as train and val are merged. The paths of image
    files decide, by majority, at which level the class folders are, so that notes and a few misplaced images do not
    interfere.
    """
    files = [(info, path) for info in infos if not (path := entry_path(info)).endswith("/")]
    kept = [(info, path) for info, path in files if _is_unsafe(path) or not _is_ignored(path)]
    safe = [PurePosixPath(path).parts for _, path in kept if not _is_unsafe(path)]
    meant = [parts for parts in safe if PurePosixPath(parts[-1]).suffix.lower() in IMAGE_SUFFIXES] or safe
    depth, splits = _depth(meant)
    candidates: list[Candidate] = []
    paths: set[str] = set()
    for info, path in kept:
        try:
            name = _class_of(info, path, depth, paths)
        except Refused as refused:
            # PostgreSQL cannot store NUL, and the path of a rejected file is only displayed.
            candidates.append(Candidate(info, path.replace("\0", "\N{REPLACEMENT CHARACTER}"), problem=refused))
        else:
            candidates.append(Candidate(info, path, name))
    kept_paths = {path for _, path in kept}
    ignored = [path for _, path in files if path not in kept_paths]
    return Layout(candidates, len(ignored), _warnings(ignored, kept_paths, splits))


def _is_unsafe(path: str) -> bool:
    parts = PurePosixPath(path).parts
    return not parts or bool({"/", "//", ".."} & set(parts)) or "\0" in path or bool(re.match("[A-Za-z]:", path))


def _is_ignored(path: str) -> bool:
    parts = PurePosixPath(path).parts
    return (
        any(part.startswith(".") or part.lower() in _CLUTTER for part in parts)
        or PurePosixPath(path).suffix.lower() in _NOTE_SUFFIXES | LABEL_SUFFIXES
    )


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


def _class_of(info: zipfile.ZipInfo, path: str, depth: int, paths: set[str]) -> str:
    """Returns the name of the class that a file belongs to, from the folder at level `depth` of its path. Adds the path
    to `paths`. Raises Refused for an unsafe or repeated path, a link, a file that is not directly in a class folder, an
    encrypted file, and an unsupported compression."""
    if _is_unsafe(path):
        raise Refused("unsafe_path", "Its path leads outside the zip. Create the zip again with relative paths.")
    if stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG):
        raise Refused("link", "It is a link or a device, not a regular file.")
    parts = PurePosixPath(path).parts
    if len(parts) < depth + 2:
        raise Refused("no_class_folder", "It is not in a class folder. Move it into one.")
    if len(parts) > depth + 2:
        raise Refused("no_class_folder", "It is in a folder inside a class folder. Move it into the class folder.")
    name = class_name(parts[depth])
    if info.flag_bits & _ENCRYPTED_FLAG or info.compress_type == _AES:
        raise Refused("encrypted", "It is encrypted. Create the zip without a password.")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        # zipfile inflates other methods without a bound: less than a kilobyte of bzip2 can fill the memory.
        method = _COMPRESSIONS.get(info.compress_type, f"method {info.compress_type}")
        raise Refused(
            "compression", f"It is compressed with {method}, which is not supported. Use deflate, the usual method."
        )
    if path in paths:
        raise Refused("duplicate_name", "Another file in the zip has the same path.")
    paths.add(path)
    return name


def class_name(folder: str) -> str:
    """Returns the class name for a folder's name: NFC-normalized, with every kind of space replaced by a plain space.
    Raises Refused for a name that is too long, blank, or contains control characters."""
    spaced = "".join(" " if unicodedata.category(character) == "Zs" else character for character in folder)
    name = unicodedata.normalize("NFC", spaced).strip()
    if len(name) > _NAME_LENGTH:
        detail = f"Its class name has {len(name)} characters; at most {_NAME_LENGTH} are allowed. Rename the folder."
        raise Refused("class_name_too_long", detail)
    if not name:
        raise Refused("class_name", "Its class name is blank. Rename the folder.")
    if not is_text(name):
        hidden = next(character for character in name if not is_text(character))
        detail = f"Its class name contains the character U+{ord(hidden):04X}, which is not allowed. Rename the folder."
        raise Refused("class_name", detail)
    return name


def _warnings(ignored: Sequence[str], kept: Iterable[str], splits: Sequence[str]) -> list[Remark]:
    warnings: list[Remark] = []
    if splits:
        detail = f"The folders {', '.join(splits)} were merged: the folders inside them are the classes."
        warnings.append(Remark(None, "splits_joined", detail))
    visible = [path for path in ignored if not any(part.startswith((".", "__")) for part in path.split("/"))]
    labels = [path for path in visible if PurePosixPath(path).suffix.lower() in LABEL_SUFFIXES]
    if labels:
        detail = "It is ignored. Class names come from folders: put the images of each class into a folder of its name."
        warnings.append(Remark(labels[0][:500], "labels_not_read", detail))
    stems = {str(PurePosixPath(path).with_suffix("")) for path in kept if PurePosixPath(path).name}
    notes = [path for path in visible if PurePosixPath(path).suffix.lower() in {".txt", ".caption"}]
    captions = [path for path in notes if str(PurePosixPath(path).with_suffix("")) in stems]
    if captions:
        detail = f"{len(captions)} caption files are ignored: training uses only the classes."
        warnings.append(Remark(captions[0][:500], "captions_not_read", detail))
    return warnings
