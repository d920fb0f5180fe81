"""Workers' reports of themselves, and the bases that they hold."""

import datetime
from typing import Any

from sqlalchemy import String, Text, true
from sqlalchemy.orm import Mapped, mapped_column

from core.service.db.base import Base, Id, Now


class BaseModelRow(Base):
    """Base that workers hold under a name; written when one has loaded it."""

    __tablename__ = "base_models"

    name: Mapped[str] = mapped_column(String(500), primary_key=True)
    digest: Mapped[str] = mapped_column(String(64))
    description: Mapped[dict[str, Any]]
    loaded_at: Mapped[datetime.datetime] = mapped_column(server_default=Now(), onupdate=Now())


class Worker(Base):
    __tablename__ = "workers"

    id: Mapped[Id]
    hostname: Mapped[str] = mapped_column(String(200))
    pid: Mapped[int]
    device: Mapped[str] = mapped_column(String(100))
    base_digest: Mapped[str | None] = mapped_column(String(64))
    queues: Mapped[list[Any]]
    resident: Mapped[list[Any]] = mapped_column(default=list)
    """SHA-256 of the adapters in the device table."""
    evicted_at: Mapped[datetime.datetime | None]
    """Time of the last eviction: adapters deleted before it have left the worker's memory."""
    healthy: Mapped[bool] = mapped_column(default=True, server_default=true())
    problem: Mapped[str | None] = mapped_column(Text)
    """Reason why the worker cannot work; set when it is not healthy."""
    started_at: Mapped[datetime.datetime] = mapped_column(server_default=Now())
    heartbeat_at: Mapped[datetime.datetime] = mapped_column(server_default=Now())
