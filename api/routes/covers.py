"""Cover images of domains, which are the latest images of their active versions, for all routes that return
domains."""

from collections.abc import Sequence

from fastapi import Request
from sqlalchemy.orm import Session

from api.schemas.domains import DomainOut
from api.signing import signed_url
from core.service import domains
from core.service.db.models import Domain


def with_covers(session: Session, request: Request, rows: Sequence[Domain]) -> dict[str, DomainOut]:
    """Returns a dict from each domain's id to its response model, with a signed URL of its cover image."""
    covers = domains.covers(session, [row.id for row in rows])
    rendered = {row.id: DomainOut.model_validate(row) for row in rows}
    for id, generation in covers.items():
        rendered[id].cover_url = signed_url(request, f"/v1/generations/{generation}/images/0")
    return rendered


def with_cover(session: Session, request: Request, row: Domain) -> DomainOut:
    return with_covers(session, request, [row])[row.id]
