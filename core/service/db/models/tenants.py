"""Tenants and their API keys."""

import datetime
from typing import Any

from sqlalchemy import ForeignKey, String, true
from sqlalchemy.orm import Mapped, mapped_column, synonym

from core.service.db.base import Base, Created, Id, TenantOwned


class Tenant(TenantOwned, Base):
    __tablename__ = "tenants"

    id: Mapped[Id]
    tenant_id: Mapped[str] = synonym("id")
    name: Mapped[str] = mapped_column(String(200), unique=True)
    weight: Mapped[float] = mapped_column(default=1.0)
    """Weight of the tenant's share of device time, relative to other tenants."""
    quotas: Mapped[dict[str, Any]] = mapped_column(default=dict)
    keep_image_days: Mapped[int | None]
    """Days to keep images, from the end of their generation on. None means as long as the service does."""
    keep_favourites: Mapped[bool] = mapped_column(default=True, server_default=true())
    """Whether favourites are kept when `keep_image_days` have passed."""
    deleted_at: Mapped[datetime.datetime | None]
    """Time when the tenant was deleted. Since then look-ups do not return it, and workers delete its rows step by
    step."""
    created_at: Mapped[Created]


class ApiKey(TenantOwned, Base):
    """API key, which has the form `dfk_<id part>_<secret>`. Only the SHA-256 of the secret is stored."""

    __tablename__ = "api_keys"

    id: Mapped[Id]
    tenant_id: Mapped[str | None] = mapped_column(  # type: ignore[assignment]  # None for administrators
        String(40), ForeignKey("tenants.id", ondelete="CASCADE"), index=True
    )
    name: Mapped[str] = mapped_column(String(200))
    scopes: Mapped[list[Any]]
    secret_hash: Mapped[str] = mapped_column(String(64))
    created_at: Mapped[Created]
    expires_at: Mapped[datetime.datetime | None]
    revoked_at: Mapped[datetime.datetime | None]
    last_used_at: Mapped[datetime.datetime | None]
    lifetime_seconds: Mapped[int | None]
    """Lifetime that was last set, which a successor gets too; None for a key that never expires. A rotation changes the
    old key's `expires_at`, but not this."""
