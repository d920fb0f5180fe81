"""Metering: images, model evaluations and training seconds per tenant and day, and stored bytes per domain."""

import datetime
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import ColumnElement, Select, and_, func, or_, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from core.service.config import Settings
from core.service.db.models import Generation, GenerationPreview, StoredBytes, Tenant, UsageDay
from core.service.db.paging import Page, PageRequest, id_of, page_of
from core.service.db.session import database_now
from core.service.errors import InvalidCursor, InvalidPeriod
from core.service.quotas import Quota, QuotaName, Quotas

_DAYS_BEFORE = 30
MAX_PERIOD_DAYS = 366


@dataclass(frozen=True)
class Period:
    """Days of usage in UTC, both included. By default the last one is today, and the first one is 30 days earlier."""

    from_day: datetime.date | None = None
    to_day: datetime.date | None = None

    def days(self, today: datetime.date) -> tuple[datetime.date, datetime.date]:
        """Returns the first and the last day. Raises InvalidPeriod."""
        last = self.to_day or today
        first = self.from_day or datetime.date.fromordinal(max(1, last.toordinal() - _DAYS_BEFORE))
        if first > last:
            raise InvalidPeriod(f"must not be after to_day, which is {last}.")
        if (last - first).days >= MAX_PERIOD_DAYS:
            raise InvalidPeriod(f"must be at most {MAX_PERIOD_DAYS - 1} days before to_day, which is {last}.")
        return first, last


@dataclass(frozen=True)
class Usage:
    """A tenant's usage since its creation, its quotas, and its usage on each day of a period."""

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
    if not (images or model_evaluations or training_seconds):
        return
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


def unmetered(session: Session, *conditions: ColumnElement[bool]) -> tuple[int, int]:
    """Returns the images and the model evaluations to meter for the generations that satisfy `conditions`, which end
    without success: images count if they have a preview, since the tenant can see it. Locks the generations."""
    generations = select(Generation.id, Generation.model_evaluations).where(*conditions).order_by(Generation.id)
    used = dict(session.execute(generations.with_for_update()).all())
    preview = GenerationPreview
    shown = select(preview.generation_id, preview.index).where(preview.generation_id.in_(used)).distinct().subquery()
    images = session.scalar(select(func.count()).select_from(shown))
    return int(images or 0), sum(used.values())


def add_stored_bytes(session: Session, domain_id: str, size_bytes: int) -> None:
    """Adds `size_bytes` to the stored bytes of a domain; the number is negative when objects are deleted. Call it last
    in a transaction: other transactions that count bytes of the same domain wait until this one ends."""
    session.execute(
        update(StoredBytes).where(StoredBytes.domain_id == domain_id).values(bytes=StoredBytes.bytes + size_bytes)
    )


def usage(session: Session, settings: Settings, period: Period = Period(), *, requests: int = 0) -> Usage:
    """Returns the usage and the quotas of the session's tenant. `requests` is the tenant's number of requests in
    the current minute, which is not in the database. Raises InvalidPeriod."""
    columns = (func.sum(UsageDay.images), func.sum(UsageDay.model_evaluations), func.sum(UsageDay.training_seconds))
    images, model_evaluations, seconds = session.execute(select(*columns)).one()
    quotas = Quotas(session, settings).read(requests)
    days = _days_of(session, period)
    return Usage(
        images=int(images or 0),
        model_evaluations=int(model_evaluations or 0),
        training_seconds=float(seconds or 0.0),
        stored_bytes=quotas["stored_bytes"].used,
        quotas=quotas,
        days=session.scalars(days.order_by(UsageDay.day.desc())).all(),
    )


def days_page(
    session: Session, request: PageRequest, tenant_id: str | None = None, period: Period = Period()
) -> Page[UsageDay]:
    """Returns a page of the daily usage of one tenant or of all, the newest day first, for an administrator. Raises
    InvalidCursor, InvalidPeriod."""
    statement = _days_of(session, period)
    if tenant_id is not None:
        statement = statement.where(UsageDay.tenant_id == tenant_id)
    if request.cursor is not None:
        day, tenant_id = _day_and_tenant(request.cursor)
        statement = statement.where(or_(UsageDay.day < day, and_(UsageDay.day == day, UsageDay.tenant_id > tenant_id)))
    statement = statement.order_by(UsageDay.day.desc(), UsageDay.tenant_id).limit(request.limit + 1)
    return page_of(list(session.scalars(statement)), request, lambda row: f"{row.day}.{row.tenant_id}")


def _days_of(session: Session, period: Period) -> Select[UsageDay]:
    first, last = period.days(database_now(session).date())
    return select(UsageDay).where(UsageDay.day.between(first, last))


def _day(session: Session, tenant_id: str, date: datetime.date) -> UsageDay | None:
    statement = select(UsageDay).where(UsageDay.tenant_id == tenant_id, UsageDay.day == date)
    return session.execute(statement.with_for_update()).scalar_one_or_none()


def _day_and_tenant(cursor: str) -> tuple[datetime.date, str]:
    day, _, tenant_id = cursor.partition(".")
    try:
        return datetime.date.fromisoformat(day), id_of(tenant_id, Tenant)
    except ValueError as error:
        raise InvalidCursor from error
