"""Watches this host's clock against the database's, which leases and deadlines follow."""

import datetime
import logging

from prometheus_client import Gauge
from sqlalchemy.orm import Session

from core.service.db.session import database_now

logger = logging.getLogger(__name__)
OFFSET = Gauge("difffit_clock_offset_seconds", "This host's clock minus the database's")
MOST_SECONDS = 30.0
"""A webhook's timestamp is refused after five minutes, a request to S3 after fifteen."""


def check_clock(session: Session) -> float:
    """Returns by how many seconds this host's clock is ahead of the database's, and warns when that is much: signed
    URLs, webhooks' timestamps and requests to S3 go by it."""
    before = datetime.datetime.now(datetime.UTC)
    database = database_now(session)
    after = datetime.datetime.now(datetime.UTC)
    # The query took some time: only a larger difference is an offset.
    offset = min((before - database).total_seconds(), (after - database).total_seconds(), key=abs)
    if before <= database <= after:
        offset = 0.0
    OFFSET.set(offset)
    if abs(offset) > MOST_SECONDS:
        logger.warning("this host's clock is %.0f s off from the database's: set it by NTP", offset)
    return offset
