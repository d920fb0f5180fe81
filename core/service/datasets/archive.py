"""Reader of zips that untrusted users upload, with one folder of images per class label or a file with the labels.
Files are read through the zip's index, their bytes are counted while inflating, and nothing is extracted to disk."""

import hashlib
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import IO, TYPE_CHECKING, Any

from core.artifact.errors import Cancelled
from core.service.datasets.images import Picture, Refused, read_image, read_picture
from core.service.datasets.layout import Candidate, Layout, arrange, check_packing, entry_path
from core.service.datasets.opening import inflate, open_zip, read_plain
from core.service.datasets.report import Member, Remark, Report
from core.service.datasets.thumbnails import Thumbnails
from core.service.errors import ArchiveInvalid

if TYPE_CHECKING:
    from PIL import Image

# Any zip may inflate to `_ALWAYS_BYTES`; a large zip may inflate to `_MOST_INFLATION` times its compressed size.
_ALWAYS_BYTES, _MOST_INFLATION = 2**28, 20
_ALWAYS_PIXELS, _PIXELS_PER_BYTE = 2 * 10**9, 1000
"""Max pixels in total: any zip may have `_ALWAYS_PIXELS`, a large zip `_PIXELS_PER_BYTE` per compressed byte. An image
of few colours has some hundred pixels per byte; a file made to waste time has millions."""
_REASONS = {"compression", "encrypted", "class_name", "class_name_too_long"}
"""Rejection codes that concern how the zip was made, not the images in it."""
MINIMUM_IMAGES = 2
"""Minimum number of usable images in a zip. With a single image, none could be held out to measure the loss, and the
fine-tuned model would only copy that image."""


@dataclass(frozen=True)
class Limits:
    members: int
    image_bytes: int
    inflated_bytes: int
    pixels: int
    classes: int
    all_pixels: int = 20 * 10**9
    """Max pixels of all images of a zip in total."""


def inspect(file: IO[bytes], limits: Limits) -> None:
    """Checks a zip by its index and its label files (number of files, declared sizes, classes), without inflating any
    image. Raises ArchiveInvalid if the zip cannot become a data set."""
    with open_zip(file, limits.members) as archive:
        candidates = _arrange(archive, limits).candidates
    # Declared sizes may be too small, since the sender writes them, but a sum above the limit is reason to reject.
    if sum(candidate.info.file_size for candidate in candidates) > limits.inflated_bytes:
        raise _too_large(limits.inflated_bytes)
    names = {candidate.class_name for candidate in candidates if candidate.problem is None}
    if len(names) > limits.classes:
        detail = f"The zip has {len(names)} classes; at most {limits.classes} are allowed. Use fewer class folders."
        raise ArchiveInvalid("too_many_classes", detail)
    rejected = [_rejected(candidate, candidate.problem) for candidate in candidates if candidate.problem]
    if len(candidates) - len(rejected) < MINIMUM_IMAGES:
        _check_reason(len(candidates) - len(rejected), rejected)
        if not names:
            is_deep = any(candidate.path.count("/") > 1 for candidate in candidates)
            deep = " Its images are in nested folders." if is_deep else ""
            detail = (
                f"The zip has no class folders.{deep} Put the images of each class into a folder named after the "
                "class, or add a labels.csv with the columns file_name and class_name."
            )
            raise ArchiveInvalid("no_class_folders", detail)
        raise ArchiveInvalid(
            "too_few_images",
            f"The zip has too few images in class folders; at least {MINIMUM_IMAGES} are needed. Add images.",
        )


def validate(
    file: IO[bytes],
    limits: Limits,
    is_wanted: Callable[[], bool] = lambda: True,
    thumbnails: Thumbnails | None = None,
) -> Report:
    """Reads every image of a zip, and returns the report: classes, accepted images, rejected files, warnings. Class ids
    are indices into the sorted, NFC-normalized folder names; a folder without a usable image is not a class. Adds a
    thumbnail of each accepted image to `thumbnails`.

    Raises ArchiveInvalid if fewer than `MINIMUM_IMAGES` images are usable, or if the zip inflates or decodes beyond the
    limits. Calls `is_wanted` before each file, and raises Cancelled if it returns False.
    """
    from core.service.datasets import checks

    with open_zip(file, limits.members) as archive:
        layout = _arrange(archive, limits)
        good, rejected = _read_all(archive, layout.candidates, limits, is_wanted, thumbnails)
    if len(good) < MINIMUM_IMAGES:
        _check_reason(len(good), rejected)
        raise ArchiveInvalid(
            "too_few_images",
            f"Only {len(good)} images are usable; at least {MINIMUM_IMAGES} are needed. See the report for the "
            "rejected files.",
            rejected=[asdict(remark) for remark in rejected],
        )
    class_names = sorted({name for name, _ in good})
    ids = {name: id for id, name in enumerate(class_names)}
    members = [replace(member, class_id=ids[name]) for name, member in good]
    report = Report(class_names, members, rejected, ignored=layout.ignored, warnings=layout.warnings)
    return checks.completed(report)


def read_images(file: IO[bytes], members: list[dict[str, Any]], limits: Limits) -> Iterator[tuple[int, "Image.Image"]]:
    """Yields (class id, image) for each accepted image of a validated zip (`members`, from the report), ordered by
    class id, then path in the zip.

    Raises ArchiveInvalid, which names the file, if a file is missing from the zip, has changed, or is rejected.
    """
    for member, data in read_files(file, members, limits):
        with _naming(member):
            image = read_image(data, limits.pixels)
        yield member["class_id"], image


def read_files(
    file: IO[bytes], members: list[dict[str, Any]], limits: Limits
) -> Iterator[tuple[dict[str, Any], bytes]]:
    """Yields (member, bytes) for each accepted image of a validated zip, in the order of `read_images`. Raises
    ArchiveInvalid, which names the file, if a file is missing from the zip or has changed."""
    with open_zip(file, limits.members) as archive:
        infos: dict[str, zipfile.ZipInfo] = {}
        for entry in archive.infolist():
            infos.setdefault(entry_path(entry), entry)
        for member in sorted(members, key=lambda member: (member["class_id"], member["file"])):
            # Data sets of earlier releases stored the path as zipfile decodes it, and no SHA-256.
            info = infos.get(member["file"]) or archive.NameToInfo.get(member["file"])
            with _naming(member):
                if info is None:
                    raise Refused("missing", "It is no longer in the zip.")
                data, _ = inflate(archive, info, limits.image_bytes)
                if data is None or member.get("sha256") not in (None, hashlib.sha256(data).hexdigest()):
                    raise Refused("changed", "It differs from the file that was accepted.")
            yield member, data


@contextmanager
def _naming(member: dict[str, Any]) -> Iterator[None]:
    """Converts Refused to ArchiveInvalid, which names the member's file."""
    try:
        yield
    except Refused as refused:
        raise ArchiveInvalid(refused.code, f"{member['file']}: {refused.detail}") from refused


def _check_reason(good: int, rejected: list[Remark]) -> None:
    """Raises ArchiveInvalid, with the reason of the first file that was rejected for how the zip was made (`_REASONS`),
    if the zip would have enough usable images with all such files."""
    blamed = [entry for entry in rejected if entry.code in _REASONS]
    if blamed and good + len(blamed) >= MINIMUM_IMAGES:
        more = f" ({len(blamed)} files were rejected for this reason.)" if len(blamed) > 1 else ""
        detail = f"{blamed[0].file}: {blamed[0].detail}{more}"
        raise ArchiveInvalid(blamed[0].code, detail, rejected=[asdict(remark) for remark in rejected])


def _rejected(candidate: Candidate, refused: Refused) -> Remark:
    return Remark(candidate.path[:500], refused.code, refused.detail)


def _arrange(archive: zipfile.ZipFile, limits: Limits) -> Layout:
    """Returns the files of a zip, assigned to classes. Raises ArchiveInvalid if there are more than
    `limits.members`."""

    def read(info: zipfile.ZipInfo) -> bytes:
        check_packing(info)
        return read_plain(archive, info)

    layout = arrange(archive.infolist(), read)
    if (count := len(layout.candidates)) > limits.members:
        raise ArchiveInvalid(
            "too_many_files", f"The zip has {count} files; at most {limits.members} are allowed. Send fewer files."
        )
    return layout


def _too_large(limit: int) -> ArchiveInvalid:
    return ArchiveInvalid(
        "inflates_too_large", f"The zip inflates to more than {limit:,} bytes. Send fewer or smaller images."
    )


class _Budget:
    """Bytes and pixels that the images of one zip may still take, so that a small zip cannot keep a worker busy for
    long. `packed` is the sum of the files' compressed sizes."""

    def __init__(self, packed: int, limits: Limits) -> None:
        # Image formats are compressed already, so a file that inflates to many times its size is hardly an image: the
        # limits grow with the compressed size.
        self._bytes = self.bytes_left = min(limits.inflated_bytes, max(_ALWAYS_BYTES, packed * _MOST_INFLATION))
        self._pixels = self._pixels_left = min(limits.all_pixels, max(_ALWAYS_PIXELS, packed * _PIXELS_PER_BYTE))

    def inflate(self, size: int) -> None:
        self.bytes_left -= size
        if self.bytes_left < 0:
            raise _too_large(self._bytes)

    def decode(self, pixels: int) -> None:
        self._pixels_left -= pixels
        if self._pixels_left < 0:
            detail = f"A zip of this size may have {self._pixels:,} pixels in total. Resize the images."
            raise ArchiveInvalid("too_many_pixels_in_all", detail)


def _read_all(
    archive: zipfile.ZipFile,
    candidates: list[Candidate],
    limits: Limits,
    is_wanted: Callable[[], bool],
    thumbnails: Thumbnails | None,
) -> tuple[list[tuple[str, Member]], list[Remark]]:
    """Returns the class name and the member of each usable image, and the rejected files with the reasons. The members
    have no class id yet."""
    good: list[tuple[str, Member]] = []
    rejected: list[Remark] = []
    seen: dict[tuple[str, str], str] = {}
    budget = _Budget(sum(info.compress_size for info in archive.infolist()), limits)
    for candidate in candidates:
        if not is_wanted():
            raise Cancelled()
        try:
            if candidate.problem is not None:
                raise candidate.problem
            data, inflated = inflate(archive, candidate.info, min(limits.image_bytes, budget.bytes_left))
            budget.inflate(inflated)
            if data is None:
                raise Refused("too_large", f"It inflates to more than {limits.image_bytes:,} bytes. Resize the image.")
            sha256 = hashlib.sha256(data).hexdigest()
            if (first := seen.get((candidate.class_name, sha256))) is not None:
                raise Refused("duplicate", f"It is a copy of {first}.")
            picture = read_picture(data, limits.pixels, budget.decode)
        except Refused as refused:
            rejected.append(_rejected(candidate, refused))
        else:
            seen[candidate.class_name, sha256] = candidate.path
            good.append((candidate.class_name, _member(candidate.path, sha256, len(data), picture, thumbnails)))
    return good, rejected


def _member(path: str, sha256: str, size: int, picture: Picture, thumbnails: Thumbnails | None) -> Member:
    from core.service.datasets import checks

    return Member(
        path,
        0,
        sha256,
        size_bytes=size,
        width=picture.width,
        height=picture.height,
        look=checks.look(picture.square),
        warnings=checks.of_image(picture),
        thumbnail=None if thumbnails is None else thumbnails.add(picture.square),
    )
