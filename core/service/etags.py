"""ETags for optimistic concurrency (RFC 9110, 8.8.3): a stale If-Match is rejected with 412."""

from core.service.db.models import Domain, Webhook
from core.service.errors import ChangedMeanwhile


def tag(row: Domain | Webhook) -> str:
    return f'"{row.updated_at:%Y%m%d%H%M%S%f}"'


def require_match(row: Domain | Webhook, if_match: str | None) -> None:
    """Checks that the `If-Match` header (None if the request has none) names the row's current ETag. The row must be
    locked. Raises ChangedMeanwhile."""
    tags = [entry.strip() for entry in (if_match or "*").split(",")]
    if "*" not in tags and tag(row) not in tags:
        raise ChangedMeanwhile(row.id)
