"""Bytes that a domain has in the store, counted as its objects come and go."""

from sqlalchemy import update
from sqlalchemy.orm import Session

from core.service.db.models import StoredBytes


def add(session: Session, domain_id: str, size_bytes: int) -> None:
    """Counts bytes of a domain's objects; negative ones when objects go. Call it last in a transaction: until it ends,
    others that count for the domain wait."""
    session.execute(
        update(StoredBytes).where(StoredBytes.domain_id == domain_id).values(bytes=StoredBytes.bytes + size_bytes)
    )
