from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from api.schemas.common import Input, Name, Output, Time


class TenantCreate(Input):
    name: Name


class TenantChange(Input):
    name: Name | None = None
    weight: float | None = Field(None, gt=0, le=1000, description="Share of the device beside other tenants'.")
    quotas: dict[str, int] | None = Field(None, max_length=20)


class TenantOut(Output):
    id: str
    name: str
    weight: float
    quotas: dict[str, int]
    created_at: Time


class KeyCreate(Input):
    name: Name
    scopes: Sequence[Literal["read", "write"]] | None = Field(None, min_length=1, description="Default: both.")


class KeyOut(Output):
    id: str
    name: str
    tenant_id: str | None
    scopes: list[str]
    created_at: Time
    expires_at: Time | None
    revoked_at: Time | None
    last_used_at: Time | None


class KeyIssued(KeyOut):
    key: str | None = Field(description="The secret, shown this once. A replay of the same request has null.")
