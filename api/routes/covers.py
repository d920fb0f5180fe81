"""Domains with the pictures that stand for them, for all routes that answer with one."""

from collections.abc import Sequence

from fastapi import Request
from sqlalchemy.orm import Session

from api.schemas.domains import DomainOut
from api.signing import signed_url
from core.db.models import Domain
from core.domains import service as domains
from core.tenancy import Scope


def with_covers(session: Session, scope: Scope, request: Request, rows: Sequence[Domain]) -> list[DomainOut]:
    covers = domains.covers(session, scope, [row.id for row in rows])
    found = [DomainOut.model_validate(row) for row in rows]
    for domain in found:
        if domain.id in covers:
            domain.cover_url = signed_url(request, f"/v1/generations/{covers[domain.id]}/images/0")
    return found


def with_cover(session: Session, scope: Scope, request: Request, row: Domain) -> DomainOut:
    return with_covers(session, scope, request, [row])[0]
