"""Report of a data set's validation."""

from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Member:
    """An accepted image: its path in the zip, its class, and the SHA-256 of its bytes."""

    file: str
    class_id: int
    sha256: str

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


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
    digest: str = ""
    ignored: int = 0
    """Number of files that are not images, such as notes and labels."""
    warnings: list[Remark] = field(default_factory=list)

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
