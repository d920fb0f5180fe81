"""Metering: images, model evaluations and training seconds per tenant and day, and stored bytes per domain."""

import datetime
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import and_, func, or_, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from core.service.config import Settings
from core.service.db.models import StoredBytes, Tenant, UsageDay
from core.service.db.paging import Page, PageRequest, id_of, page_of
from core.service.db.session import database_now
from core.service.errors import InvalidCursor
from core.service.quotas import Quota, QuotaName, Quotas

_SHOWN = datetime.timedelta(days=30)


@dataclass(frozen=True)
class Usage:
    """A tenant's usage since its creation, its quotas, and its usage in each of the last 30 days."""

    images: int
    model_evaluations: int
    """Count of model evaluations (NFE): one per image and sampling step, two with classifier-free guidance."""
    training_seconds: float
    stored_bytes: int
    quotas: dict[QuotaName, Quota]
    days: Sequence[UsageDay]


def meter(
    session: Session, tenant_id: str, *, images: int = 0, model_evaluations: int = 0, training_seconds: float = 0.0
) -> None:
    """Adds images, model evaluations and training seconds to a tenant's usage of the current day."""
    today = database_now(session).date()
    row = _day(session, tenant_id, today)
    if row is None:
        try:
            with session.begin_nested():
                session.add(
                    UsageDay(tenant_id=tenant_id, day=today, images=0, model_evaluations=0, training_seconds=0.0)
                )
        except IntegrityError:
            pass  # another transaction has just inserted the day's row
        row = _day(session, tenant_id, today)
        assert row is not None
    row.images += images
    row.model_evaluations += model_evaluations
    row.training_seconds += training_seconds


def add_stored_bytes(session: Session, domain_id: str, size_bytes: int) -> None:
    """Adds `size_bytes` to the stored bytes of a domain; the number is negative when objects are deleted. Call it last
    in a transaction: other transactions that count bytes of the same domain wait until this one ends."""
    session.execute(
        update(StoredBytes).where(StoredBytes.domain_id == domain_id).values(bytes=StoredBytes.bytes + size_bytes)
    )


def usage(session: Session, settings: Settings, *, requests: int = 0) -> Usage:
    """Returns the usage and the quotas of the session's tenant. `requests` is the tenant's number of requests in
    the current minute, which is not in the database."""
    columns = (func.sum(UsageDay.images), func.sum(UsageDay.model_evaluations), func.sum(UsageDay.training_seconds))
    images, model_evaluations, seconds = session.execute(select(*columns)).one()
    quotas = Quotas(session, settings).read(requests)
    days = select(UsageDay).where(UsageDay.day >= _first_shown(session))
    return Usage(
        images=int(images or 0),
        model_evaluations=int(model_evaluations or 0),
        training_seconds=float(seconds or 0.0),
        stored_bytes=quotas["stored_bytes"].used,
        quotas=quotas,
        days=session.scalars(days.order_by(UsageDay.day.desc())).all(),
    )


def days_page(session: Session, request: PageRequest, tenant_id: str | None = None) -> Page[UsageDay]:
    """Returns a page of the daily usage of one tenant or of all, the newest day first, for an administrator. Raises
    InvalidCursor."""
    statement = select(UsageDay).where(UsageDay.day >= _first_shown(session))
    if tenant_id is not None:
        statement = statement.where(UsageDay.tenant_id == tenant_id)
    if request.cursor is not None:
        day, tenant_id = _day_and_tenant(request.cursor)
        statement = statement.where(or_(UsageDay.day < day, and_(UsageDay.day == day, UsageDay.tenant_id > tenant_id)))
    statement = statement.order_by(UsageDay.day.desc(), UsageDay.tenant_id).limit(request.limit + 1)
    return page_of(list(session.scalars(statement)), request, lambda row: f"{row.day}.{row.tenant_id}")


def _first_shown(session: Session) -> datetime.date:
    return database_now(session).date() - _SHOWN


def _day(session: Session, tenant_id: str, date: datetime.date) -> UsageDay | None:
    statement = select(UsageDay).where(UsageDay.tenant_id == tenant_id, UsageDay.day == date)
    return session.execute(statement.with_for_update()).scalar_one_or_none()


def _day_and_tenant(cursor: str) -> tuple[datetime.date, str]:
    day, _, tenant_id = cursor.partition(".")
    try:
        return datetime.date.fromisoformat(day), id_of(tenant_id, Tenant)
    except ValueError as error:
        raise InvalidCursor from error
