"""Zips of images, one folder a class, from strangers: read by index, counted as they inflate, never extracted."""

import hashlib
import stat
import unicodedata
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import PurePosixPath
from typing import IO, TYPE_CHECKING, Any

from core.datasets.images import SIGNATURE_BYTES, Refused, check_signature, decoded, upright
from core.errors import ArchiveInvalid, Cancelled

if TYPE_CHECKING:
    from PIL import Image

_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif"}
_ENTRIES_A_MEMBER, _ENTRY_BYTES = 3, 256
"""Of an index: beside each image lie folders, and what operating systems leave."""
_LOCAL_HEADER_BYTES = 30
_ALWAYS_BYTES, _MOST_INFLATION = 2**28, 20
MINIMUM_IMAGES = 2
"""With one image nothing can be held out, and a domain of one picture is a copy."""


@dataclass(frozen=True)
class Limits:
    members: int
    image_bytes: int
    inflated_bytes: int
    pixels: int
    classes: int


@dataclass(frozen=True)
class Member:
    file: str
    class_id: int

    def to_json(self) -> dict[str, Any]:
        return {"file": self.file, "class_id": self.class_id}


@dataclass
class Rejected:
    """A file that was not used, and why."""

    file: str
    code: str
    detail: str

    def to_json(self) -> dict[str, str]:
        return {"file": self.file, "code": self.code, "detail": self.detail}


@dataclass
class Report:
    class_names: list[str]
    members: list[Member] = field(default_factory=list)
    rejected: list[Rejected] = field(default_factory=list)
    digest: str = ""

    def classes_json(self) -> list[dict[str, Any]]:
        counts = Counter(member.class_id for member in self.members)
        return [{"id": id, "name": name, "images": counts[id]} for id, name in enumerate(self.class_names)]


def inspect(file: IO[bytes], limits: Limits) -> None:
    """What can be told without inflating anything. Raises ArchiveInvalid."""
    with _open(file, limits) as archive:
        candidates = _candidates(archive, limits)
        _check_claims([info for info, _ in candidates], limits)
    names = {name for _, name in candidates if name is not None}
    if not names:
        raise ArchiveInvalid("no_class_folders", "The zip has no class folders. Put each class's images in a folder.")
    if len(names) > limits.classes:
        detail = f"The zip has {len(names)} classes; at most {limits.classes} are taken."
        raise ArchiveInvalid("too_many_classes", detail)
    if sum(name is not None for _, name in candidates) < MINIMUM_IMAGES:
        raise ArchiveInvalid("too_few_images", f"A data set needs at least {MINIMUM_IMAGES} images in class folders.")


def validate(file: IO[bytes], limits: Limits, is_wanted: Callable[[], bool] = lambda: True) -> Report:
    """Decodes every image. Class ids are the positions of the folder names sorted after NFC normalization; a folder
    without a usable image is no class.

    Raises ArchiveInvalid when nothing usable is left, or the zip inflates beyond the limits; Cancelled as soon as it is
    not wanted any more.
    """
    with _open(file, limits) as archive:
        good, rejected = _decode_all(archive, _candidates(archive, limits), limits, is_wanted)
    class_names = sorted({name for _, name, _ in good})
    if len(good) < MINIMUM_IMAGES:
        raise ArchiveInvalid(
            "too_few_images",
            f"{len(good)} of the images can be used; at least {MINIMUM_IMAGES} are needed. See the report.",
            rejected=[one.to_json() for one in rejected],
        )
    ids = {name: id for id, name in enumerate(class_names)}
    members = [Member(info.filename, ids[name]) for info, name, _ in good]
    content = sorted((name, sha256) for _, name, sha256 in good)
    digest = hashlib.sha256("\n".join(f"{name}\0{sha256}" for name, sha256 in content).encode()).hexdigest()
    return Report(class_names, members, rejected, digest)


def read_images(file: IO[bytes], members: list[dict[str, Any]], limits: Limits) -> Iterator[tuple[int, "Image.Image"]]:
    """(class id, image) of accepted members, in an order that depends on their names alone."""
    with _open(file, limits) as archive:
        for member in sorted(members, key=lambda member: (member["class_id"], member["file"])):
            info = archive.getinfo(member["file"])
            data, _ = _inflate(archive, info, limits.image_bytes)
            if data is None:
                raise ArchiveInvalid("too_large", f"{info.filename} is larger than when it was accepted.")
            yield member["class_id"], upright(data, limits.pixels)


class _Guarded:
    """A file as zipfile reads it: the index in one piece, of which it makes objects that take ten times the room. One
    that is too large is refused before that, by what it is and not by what it says of itself."""

    def __init__(self, file: IO[bytes], entries: int) -> None:
        self._file, self._entries = file, entries
        self.is_index = True
        self.seek, self.tell, self.seekable = file.seek, file.tell, file.seekable

    def read(self, size: int = -1) -> bytes:
        if not self.is_index:
            return self._file.read(size)
        if size > self._entries * _ENTRY_BYTES:
            self._refuse()
        data = self._file.read(size)
        if data.count(b"PK\x01\x02") > self._entries:
            self._refuse()
        return data

    def _refuse(self) -> None:
        raise ArchiveInvalid("too_many_files", "The zip's index is larger than that of any zip that is taken.")


def _open(file: IO[bytes], limits: Limits) -> zipfile.ZipFile:
    file.seek(0)
    guarded = _Guarded(file, limits.members * _ENTRIES_A_MEMBER)
    try:
        archive = zipfile.ZipFile(guarded)
    except (zipfile.BadZipFile, ValueError, OverflowError, NotImplementedError, OSError) as error:
        detail = "The file is not a zip archive. Upload a .zip with one folder a class."
        raise ArchiveInvalid("not_a_zip", detail) from error
    guarded.is_index = False
    _check_overlaps(archive)
    return archive


def _check_overlaps(archive: zipfile.ZipFile) -> None:
    """Files that share their bytes are how a small zip inflates to a large one. Raises ArchiveInvalid."""
    ordered = sorted(archive.infolist(), key=lambda info: info.header_offset)
    for info, following in pairwise(ordered):
        if info.header_offset + _LOCAL_HEADER_BYTES + info.compress_size > following.header_offset:
            raise ArchiveInvalid("overlapping_files", "Files of the zip lie in one another. Make the zip anew.")


def _candidates(archive: zipfile.ZipFile, limits: Limits) -> list[tuple[zipfile.ZipInfo, str | None]]:
    """Every file that counts, with its class; None for one outside of a class folder. Raises ArchiveInvalid."""
    infos = [info for info in archive.infolist() if not info.is_dir() and not _ignored(info.filename)]
    if len(infos) > limits.members:
        raise ArchiveInvalid("too_many_files", f"The zip has {len(infos)} files; at most {limits.members} are taken.")
    paths = [PurePosixPath(info.filename).parts for info in infos]
    # One folder around all class folders is how many tools zip a directory; a readme may lie beside the classes.
    directly = [parts for parts in paths if len(parts) < 3]
    wrapped = (
        len({parts[0] for parts in paths}) == 1
        and len(directly) < len(paths)
        and not any(PurePosixPath(parts[-1]).suffix.lower() in _SUFFIXES for parts in directly)
    )
    return [(info, _class_name(parts[1:] if wrapped else parts)) for info, parts in zip(infos, paths, strict=True)]


def _check_claims(infos: list[zipfile.ZipInfo], limits: Limits) -> None:
    """A zip that says itself that it is too large is believed."""
    if sum(info.file_size for info in infos) > limits.inflated_bytes:
        raise _too_large(limits.inflated_bytes)


def _too_large(limit: int) -> ArchiveInvalid:
    return ArchiveInvalid("inflates_too_large", f"The zip inflates to more than {limit:,} bytes.")


def _class_name(parts: tuple[str, ...]) -> str | None:
    name = unicodedata.normalize("NFC", parts[0]).strip() if len(parts) == 2 else ""
    return name if name and len(name) <= 100 and name.isprintable() else None


def _ignored(path: str) -> bool:
    """What operating systems leave in zips."""
    parts = PurePosixPath(path).parts
    return (
        "__MACOSX" in parts
        or any(part.startswith(".") and not part.startswith("..") for part in parts)
        or parts[-1:]
        in (
            ("Thumbs.db",),
            ("desktop.ini",),
        )
    )


def _decode_all(
    archive: zipfile.ZipFile,
    candidates: list[tuple[zipfile.ZipInfo, str | None]],
    limits: Limits,
    is_wanted: Callable[[], bool],
) -> tuple[list[tuple[zipfile.ZipInfo, str, str]], list[Rejected]]:
    good: list[tuple[zipfile.ZipInfo, str, str]] = []
    rejected: list[Rejected] = []
    seen: dict[str, str] = {}
    names: set[str] = set()
    # Images are compressed already: what inflates to many times its size is none.
    packed = sum(info.compress_size for info in archive.infolist())
    limit = left = min(limits.inflated_bytes, max(_ALWAYS_BYTES, packed * _MOST_INFLATION))
    for info, name in candidates:
        if not is_wanted():
            raise Cancelled()
        try:
            if name is None:
                raise Refused("no_class_folder", "It does not lie in a class folder.")
            _check_entry(info, names)
            data, inflated = _inflate(archive, info, min(limits.image_bytes, left))
            left -= inflated
            if left < 0:
                raise _too_large(limit)
            if data is None:
                raise Refused("too_large", f"It inflates to more than {limits.image_bytes:,} bytes.")
            sha256 = hashlib.sha256(data).hexdigest()
            if sha256 in seen:
                raise Refused("duplicate", f"It is the same file as {seen[sha256]}.")
            with decoded(data, limits.pixels):
                pass
        except Refused as refused:
            rejected.append(Rejected(info.filename[:500], refused.code, refused.detail))
        else:
            seen[sha256] = info.filename
            good.append((info, name, sha256))
    return good, rejected


def _check_entry(info: zipfile.ZipInfo, names: set[str]) -> None:
    path = PurePosixPath(info.filename)
    if path.is_absolute() or ".." in path.parts or "\\" in info.filename or "\0" in info.orig_filename:
        raise Refused("unsafe_path", "Its path leads outside of the zip.")
    if stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG):
        raise Refused("link", "It is a link or a device, not a file.")
    if info.flag_bits & 0x1:
        raise Refused("encrypted", "It is encrypted. Upload a zip without a password.")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        # zipfile inflates these without a bound: under a kilobyte of bzip2 can fill the memory.
        raise Refused("compression", "Its compression is not known here. Make a zip with the usual one, deflate.")
    if info.filename in names:
        raise Refused("duplicate_name", "Another file of the zip has the same path.")
    names.add(info.filename)


def _inflate(archive: zipfile.ZipFile, info: zipfile.ZipInfo, limit: int) -> tuple[bytes | None, int]:
    """The member's bytes, or None beyond the limit, and how many were inflated: the size that the zip claims is not
    believed."""
    try:
        with archive.open(info) as member:
            check_signature(member.peek(SIGNATURE_BYTES))  # type: ignore[attr-defined]  # its own kind of file
            data = member.read(limit + 1)
    except Refused:
        raise
    except Exception as error:  # zipfile raises nearly everything on hostile input
        raise Refused("corrupt", "It cannot be read from the zip.") from error
    if len(data) <= limit and len(data) != info.file_size:
        raise Refused("corrupt", "It is not as long as the zip says.")
    return (None if len(data) > limit else data), len(data)
