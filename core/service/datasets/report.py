"""Report of a data set's validation."""

import hashlib
from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Member:
    """Accepted image of a data set. Data sets of earlier releases have only the first two or three values."""

    file: str
    """Path in the zip."""
    class_id: int
    sha256: str = ""
    """SHA-256 of the image's bytes."""
    size_bytes: int = 0
    width: int = 0
    height: int = 0
    look: str = ""
    """Miniature of the image, in hex, by which near-duplicates are found: see `checks.look`."""
    warnings: dict[str, Any] = field(default_factory=dict)
    """Warnings by their code: {detail, image}, where `image` is the number of another image, or None."""
    thumbnail: tuple[int, int] | None = None
    """Offset and size in bytes of the thumbnail in the object with all thumbnails of the zip."""

    zip: int = 0
    """Index of the image's zip in the data set's `zips`."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Member":
        return cls(**values)


@dataclass(frozen=True)
class Remark:
    """Entry of the report: either a rejected file with the reason, or a warning about something that the user probably
    did not intend. `code` is a stable code, `detail` a sentence."""

    file: str | None
    code: str
    detail: str


@dataclass
class Report:
    class_names: list[str]
    members: list[Member] = field(default_factory=list)
    rejected: list[Remark] = field(default_factory=list)
    ignored: int = 0
    """Number of files that are not images, such as notes and labels."""
    warnings: list[Remark] = field(default_factory=list)

    @property
    def digest(self) -> str:
        """Digest of the accepted images and their class names, in hex."""
        content = sorted((self.class_names[member.class_id], member.sha256) for member in self.members)
        return hashlib.sha256("\n".join(f"{name}\0{sha256}" for name, sha256 in content).encode()).hexdigest()

    def to_json(self) -> dict[str, Any]:
        """Returns the report as JSON: counts, rejected files and warnings."""
        return {
            "accepted": len(self.members),
            "ignored": self.ignored,
            "rejected": [asdict(remark) for remark in self.rejected],
            "warnings": [asdict(remark) for remark in self.warnings],
        }

    def classes_json(self) -> list[dict[str, Any]]:
        counts = Counter(member.class_id for member in self.members)
        return [{"id": id, "name": name, "images": counts[id]} for id, name in enumerate(self.class_names)]
