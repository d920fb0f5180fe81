from typing import Any

from pydantic import Field

from api.schemas.common import Output, Time


class AdapterOut(Output):
    id: str
    domain_id: str
    finetune_id: str | None
    version: int
    status: str = Field(description="`ready`, or `quarantined` when its stored file failed a check.")
    method: str
    preset: str | None
    size_bytes: int
    parameters: int
    base_digest: str
    sha256: str = Field(description="Of exactly the bytes that the download serves.")
    manifest: dict[str, Any]
    created_at: Time
    last_used_at: Time | None


class AdminAdapterOut(AdapterOut):
    tenant_id: str
    resident_on: list[str] = Field([], description="Workers that hold it in their device table.")
