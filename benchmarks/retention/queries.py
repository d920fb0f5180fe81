"""Runs every query of the service that touches a large table, on a million rows, and finds by EXPLAIN which large
tables it scans whole. There should be none."""

import datetime
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from sqlalchemy import Connection, event, select
from sqlalchemy.orm import Session

from benchmarks.retention.rows import DOMAIN, OTHER, TENANT
from core.service import audit, domains, expiry, generations, images, jobs, metering, queues
from core.service.audit import AuditFilter
from core.service.config import Settings
from core.service.db.models import Dataset, Domain, Finetune, Generation
from core.service.db.paging import PageRequest
from core.service.db.session import Database, database_now
from core.service.generations import GenerationFilter
from core.service.images import ImageFilter
from core.service.tenancy import SYSTEM, Scope
from core.service.webhooks import deliveries
from core.service.webhooks import service as webhooks

LARGE = ("generations", "generation_images", "generation_previews", "audit_log", "webhook_deliveries")
_OWNER = Scope(TENANT)
_JOBS: tuple[type[Any], ...] = (Dataset, Finetune, Generation)
_DAYS = datetime.timedelta(days=30)


class _Quiet:
    def send(self, task: str, queue: str, id: str) -> None:
        """Sends nothing, since no worker runs in this benchmark."""


def _step(step: Callable[[Session, datetime.datetime, int], int]) -> Callable[[Session], object]:
    return lambda session: step(session, database_now(session) - _DAYS, 100)


IMAGES = {
    "images of a tenant": ImageFilter(),
    "images of a domain": ImageFilter(domain_id=DOMAIN),
    "images of a rare class": ImageFilter(domain_id=DOMAIN, class_name="dog"),
    "images of an adapter": ImageFilter(adapter_id="adp_old"),
    "favourites": ImageFilter(domain_id=DOMAIN, favourite=True),
    "images with a label": ImageFilter(label="over"),
    "images with a seed": ImageFilter(seed=4),
}
OF_A_TENANT = {
    "a page of generations",
    "the last page of another domain",
    "generations of a rare class",
    "all generations of a tenant",
    *IMAGES,
    "covers of domains",
    "a tenant's usage and quotas",
    "a page of deliveries",
}
QUERIES: Mapping[str, Callable[[Session], object]] = {
    "a page of generations": lambda s: generations.page(s, GenerationFilter(domain_id=DOMAIN), PageRequest()),
    "the last page of another domain": lambda s: generations.page(
        s, GenerationFilter(domain_id=OTHER), PageRequest(cursor="gen_00000000000000000000009000")
    ),
    "generations of a rare class": lambda s: generations.page(
        s, GenerationFilter(domain_id=DOMAIN, class_name="dog"), PageRequest()
    ),
    "all generations of a tenant": lambda s: generations.page(s, GenerationFilter(), PageRequest()),
    **{name: partial(images.page, wanted=wanted, request=PageRequest()) for name, wanted in IMAGES.items()},
    "covers of domains": lambda s: domains.covers(s, [DOMAIN, OTHER]),
    "a tenant's usage and quotas": lambda s: metering.usage(s, Settings()),
    "usage of all tenants": lambda s: metering.days_page(s, PageRequest()),
    "a page of deliveries": lambda s: webhooks.deliveries(s, "wh_old", PageRequest()),
    "a page of the audit log": lambda s: audit.page(s, AuditFilter(TENANT), PageRequest()),
    "metrics of the queues": queues.read,
    "a worker's next generation": lambda s: jobs.claim_next(s, Generation, "wrk_1", 60),
    "lost workers' jobs": lambda s: [jobs.reap(s, _Quiet(), job, 3) for job in _JOBS],
    "a webhook's next delivery": deliveries.claim,
    "a step of images": _step(expiry.images),
    "a step of favourites": lambda s: expiry.with_kept_favourites(s, database_now(s), 100),
    "a step of a domain's favourites": lambda s: expiry.with_kept_favourites(
        s, database_now(s), 100, Generation.domain_id.in_(select(Domain.id).where(Domain.id == OTHER))
    ),
    "a step of generations": _step(expiry.generations),
    "a step of previews": _step(expiry.previews),
    "a step of deliveries": _step(expiry.deliveries),
    "a step of the audit log": _step(expiry.audit_entries),
    "a step of idempotency keys": _step(expiry.idempotency_keys),
}


@dataclass
class Measured:
    """Measurement of one query: the seconds of its second run, its SQL statements, and the large tables that the
    statements scan whole."""

    seconds: float = 0.0
    statements: list[tuple[str, Any]] = field(default_factory=list)
    scans: set[str] = field(default_factory=set)


def measure(database: Database) -> dict[str, Measured]:
    """Runs every query twice, rolls it back, and returns the measurements by the query's name."""
    scopes = {name: _OWNER if name in OF_A_TENANT else SYSTEM for name in QUERIES}
    return {name: _measure(database, scopes[name], query) for name, query in QUERIES.items()}


def _measure(database: Database, scope: Scope, query: Callable[[Session], object]) -> Measured:
    measured = Measured()
    for _ in range(2):
        with database.session(scope) as session:
            started = time.perf_counter()
            with _noted(session.connection(), measured):
                query(session)
            measured.seconds = time.perf_counter() - started
            for statement, parameters in measured.statements:
                plan = session.connection().exec_driver_sql(f"EXPLAIN (FORMAT JSON) {statement}", parameters)
                measured.scans |= set(_whole(plan.scalar_one()[0]["Plan"]))
            session.rollback()
    return measured


@contextmanager
def _noted(connection: Connection, measured: Measured) -> Iterator[None]:
    def note(_conn: Any, _cursor: Any, statement: str, parameters: Any, _context: Any, executemany: bool) -> None:
        if not executemany and statement.startswith(("SELECT", "UPDATE", "DELETE", "WITH")):
            measured.statements.append((statement, parameters))

    measured.statements.clear()
    event.listen(connection, "before_cursor_execute", note)
    yield
    event.remove(connection, "before_cursor_execute", note)


def _whole(plan: Mapping[str, Any]) -> Iterator[str]:
    if plan["Node Type"] == "Seq Scan" and plan["Relation Name"] in LARGE:
        yield plan["Relation Name"]
    for part in plan.get("Plans", []):
        yield from _whole(part)
