"""Comparison of this host's clock with the database's clock, which leases and deadlines follow."""

import datetime
import logging

from prometheus_client import Gauge
from sqlalchemy.orm import Session

from core.service.db.session import database_now

logger = logging.getLogger(__name__)
OFFSET = Gauge("difffit_clock_offset_seconds", "This host's clock minus the database's")
MOST_SECONDS = 30.0
"""Max offset without a warning. It is far below the offset of fifteen minutes at which S3 rejects requests."""


def check_clock(session: Session) -> float:
    """Returns the seconds by which this host's clock is ahead of the database's clock, and sets the metric. Logs a
    warning above `MOST_SECONDS`, since signed URLs and requests to S3 depend on this host's clock."""
    before = datetime.datetime.now(datetime.UTC)
    database = database_now(session)
    after = datetime.datetime.now(datetime.UTC)
    # The query takes some time. If the database's time is between `before` and `after`, the offset counts as 0.
    offset = min((before - database).total_seconds(), (after - database).total_seconds(), key=abs)
    if before <= database <= after:
        offset = 0.0
    OFFSET.set(offset)
    if abs(offset) > MOST_SECONDS:
        logger.warning("this host's clock is %.0f s off from the database's: set it by NTP", offset)
    return offset
