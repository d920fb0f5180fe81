from typing import Annotated, Literal

from pydantic import Field

from api.schemas.common import KEPT_DAYS, KEPT_FAVOURITES, WHOLE, Input, Integer, KeptDays, Name, Output, Time, optional
from core.service.quotas import QuotaName

Quotas = Annotated[
    dict[QuotaName, Annotated[int, Field(ge=0, lt=2**53), WHOLE]],
    Field(
        examples=[{"images_per_day": 1000}],
        description="The tenant's own limits by name. A change replaces all earlier ones. The service's limits apply "
        "to the rest.",
    ),
]
Lifetime = Annotated[int, Field(ge=1, le=10 * 366 * 86_400, examples=[90 * 86_400]), WHOLE]
Weight = Annotated[
    float, Field(gt=0, le=1000, description="Weight of the tenant's share of the device, relative to other tenants.")
]

Scopes = Annotated[list[Literal["read", "write"]], Field(fail_fast=True, min_length=1, max_length=2)]


class TenantCreate(Input):
    name: Name = Field(description="Unique among tenants.")
    weight: Weight = 1.0
    quotas: Quotas = Field(default_factory=dict)


class TenantChange(Input):
    """Changes of a tenant. Omitted fields do not change."""

    name: Name = optional("Unique among tenants.")
    weight: Weight = optional()
    quotas: Quotas = optional()
    keep_image_days: KeptDays | None = optional(KEPT_DAYS)
    keep_favourites: bool = optional(KEPT_FAVOURITES)


class TenantOut(Output):
    id: str = Field(examples=["ten_01m84b6j1msby0475feqpdzzxr"])
    name: str
    weight: float = Field(
        description="Weight of the tenant's share of the device, relative to other tenants. 1 by default."
    )
    quotas: dict[str, int]
    keep_image_days: int | None = Field(description=KEPT_DAYS)
    keep_favourites: bool = Field(description=KEPT_FAVOURITES)
    created_at: Time


class AdminKeyCreate(Input):
    name: Name = Field(description="Label of the key, such as its owner's name.", examples=["Ada"])
    lifetime_seconds: Lifetime | None = Field(None, description="Seconds until the key expires. Never, when omitted.")


class KeyCreate(Input):
    name: Name = Field(description="Label of the key.", examples=["Web shop"])
    scopes: Scopes | None = Field(None, description="Permissions of the key. Both by default.")
    lifetime_seconds: Lifetime | None = Field(None, description="Seconds until the key expires. Never, when omitted.")


class KeyChange(Input):
    """Changes of an API key. Omitted fields do not change."""

    name: Name = optional("Label of the key.")
    lifetime_seconds: Lifetime | None = optional("Seconds from now until the key expires. Null means never.")


class KeyRotate(Input):
    overlap_seconds: Integer = Field(
        86_400, ge=0, le=30 * 86_400, description="Seconds for which the old key keeps working."
    )
    lifetime_seconds: Lifetime | None = optional(
        "Seconds until the new key expires. Null means never. When omitted, it gets the lifetime of the old key."
    )


class KeyOut(Output):
    id: str = Field(examples=["key_01m84b6j222zcre9wxh8wwd3ch"])
    name: str
    tenant_id: str | None = Field(description="Null for an administrator's key.")
    scopes: list[str] = Field(examples=[["read", "write"]])
    created_at: Time
    expires_at: Time | None
    revoked_at: Time | None
    last_used_at: Time | None = Field(description="Precise to the minute.")


class OwnKeyOut(KeyOut):
    tenant_name: str | None = Field(description="Null for an administrator's key.")


class KeyIssued(KeyOut):
    key: str | None = Field(
        None, description="The key itself, returned only once: a replay of the request has null.", examples=["dfk_…"]
    )
