"""Tables of workers, with the state that each reports in its heartbeats, and of the base models that workers have
loaded."""

import datetime
from typing import Any

from sqlalchemy import String, Text, true
from sqlalchemy.orm import Mapped, mapped_column

from core.service.db.base import Base, Id, Now


class BaseModelRow(Base):
    """Base model that workers have loaded, by the name that the service's settings give it. A worker writes the row
    after loading the base model."""

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
    """SHA-256 of each adapter in the worker's table of adapters in device memory."""
    evicted_at: Mapped[datetime.datetime | None]
    """Time of the worker's last eviction of deleted adapters. Adapters deleted before this time have left the worker's
    memory."""
    healthy: Mapped[bool] = mapped_column(default=True, server_default=true())
    problem: Mapped[str | None] = mapped_column(Text)
    """Reason why the worker cannot run jobs; set if it is not healthy."""
    started_at: Mapped[datetime.datetime] = mapped_column(server_default=Now())
    heartbeat_at: Mapped[datetime.datetime] = mapped_column(server_default=Now())
