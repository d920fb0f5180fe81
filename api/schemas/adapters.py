from typing import Any, Literal

from pydantic import Field

from api.schemas.common import (
    TENANT_NAME,
    ClassName,
    Description,
    Digest,
    Input,
    Name,
    NewClassName,
    Output,
    Time,
    optional,
)

AdapterStatus = Literal["ready", "quarantined"]


class AdapterChange(Input):
    """Changes of an adapter. Omitted fields do not change."""

    name: Name | None = optional("Your name for this version; null removes it.")
    note: Description = optional("Free text.")
    class_names: dict[ClassName, NewClassName] = optional(
        "New names of classes, by their current names. The adapter's file keeps the names of its training."
    )


class AdapterOut(Output):
    id: str = Field(examples=["adp_01m84b6j6k1yq7c2b7m4z5d3xw"])
    domain_id: str
    finetune_id: str | None = Field(description="Null for an uploaded adapter.")
    version: int = Field(description="Version number within the domain, from 1.")
    name: str | None
    note: str
    class_names: list[str] = Field(description="Names of the classes, by class id.", examples=[["fruit", "heart"]])
    status: AdapterStatus = Field(description="`quarantined`: the stored file failed a check.")
    method: str
    preset: str | None
    size_bytes: int
    parameters: int
    base_digest: Digest = Field(description="Digest of the base that it was trained on. Only that base can serve it.")
    sha256: Digest = Field(description="SHA-256 of the bytes that the download returns.")
    learned_guidance: float | None = Field(
        description="Highest guidance scale that the version has learned, at which it needs one model evaluation per "
        "image and step instead of two. Null without learned guidance."
    )
    manifest: dict[str, Any] = Field(description="Metadata stored in the file: classes, sites, data set, training.")
    created_at: Time
    last_used_at: Time | None


class AdapterTotals(Output):
    adapters: int
    tenants: int
    domains: int
    size_bytes: int


class AdminAdapterOut(AdapterOut):
    tenant_id: str
    tenant_name: str | None = Field(None, description=TENANT_NAME)
    domain_name: str | None = Field(None, description="Null if the domain was deleted a moment ago.")
    resident_on: list[str] = Field([], description="Workers that have it in device memory.")
