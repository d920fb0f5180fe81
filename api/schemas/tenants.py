from typing import Annotated, Literal

from pydantic import Field

from api.schemas.common import WHOLE, Input, Integer, Name, Output, Time, optional
from core.service.quotas import QuotaName

Quotas = Annotated[
    dict[QuotaName, Annotated[int, Field(ge=0, lt=2**53), WHOLE]],
    Field(
        examples=[{"images_per_day": 1000}],
        description="The tenant's own limits by name, all of them at once; the service's hold for the others.",
    ),
]
Lifetime = Annotated[int, Field(ge=1, le=10 * 366 * 86_400, examples=[90 * 86_400]), WHOLE]
Weight = Annotated[float, Field(gt=0, le=1000, description="Share of the device beside other tenants'.")]

Scopes = Annotated[list[Literal["read", "write"]], Field(fail_fast=True, min_length=1, max_length=2)]


class TenantCreate(Input):
    name: Name = Field(description="Unique among tenants.")


class TenantChange(Input):
    """Fields that are left out stay as they are."""

    name: Name = optional("Unique among tenants.")
    weight: Weight = optional()
    quotas: Quotas = optional()


class TenantOut(Output):
    id: str = Field(examples=["ten_01m84b6j1msby0475feqpdzzxr"])
    name: str
    weight: float = Field(description="Share of the device beside other tenants'; 1 at first.")
    quotas: dict[str, int]
    created_at: Time


class KeyCreate(Input):
    name: Name = Field(description="To tell keys apart.", examples=["Web shop"])
    scopes: Scopes | None = Field(None, description="What the key may do; both when left out.")
    lifetime_seconds: Lifetime | None = Field(None, description="When it expires; never when left out.")


class KeyChange(Input):
    """Fields that are left out stay as they are."""

    name: Name = optional("To tell keys apart.")
    lifetime_seconds: Lifetime | None = optional("When it expires, counted from now; null for never.")


class KeyRotate(Input):
    overlap_seconds: Integer = Field(
        86_400, ge=0, le=30 * 86_400, description="How long the old key works beside the new one."
    )
    lifetime_seconds: Lifetime | None = Field(None, description="When the new one expires; never when left out.")


class KeyOut(Output):
    id: str = Field(examples=["key_01m84b6j222zcre9wxh8wwd3ch"])
    name: str
    tenant_id: str | None
    scopes: list[str] = Field(examples=[["read", "write"]])
    created_at: Time
    expires_at: Time | None
    revoked_at: Time | None
    last_used_at: Time | None = Field(description="To the minute.")


class OwnKeyOut(KeyOut):
    tenant_name: str | None = Field(description="Null for an administrator's key.")


class KeyIssued(KeyOut):
    key: str | None = Field(
        None, description="The key itself, shown this once: a replay of the same request has null.", examples=["dfk_…"]
    )
