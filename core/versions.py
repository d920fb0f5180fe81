"""Which state of a row a writer has seen, as an entity tag (RFC 9110, 8.8.3): who would overwrite what another has
changed meanwhile hears of it instead."""

from core.db.models import Domain, Webhook
from core.errors import ChangedMeanwhile


def tag(row: Domain | Webhook) -> str:
    return f'"{row.updated_at:%Y%m%d%H%M%S%f}"'


def demand(row: Domain | Webhook, seen: str | None) -> None:
    """`seen`: what `If-Match` says, None without it; the row is locked. Raises ChangedMeanwhile."""
    tags = [one.strip() for one in (seen or "*").split(",")]
    if "*" not in tags and tag(row) not in tags:
        raise ChangedMeanwhile(row.id)
