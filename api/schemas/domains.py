from pydantic import Field

from api.schemas.common import Description, Input, Name, Output, Time


class DomainCreate(Input):
    name: Name
    description: Description = ""


class DomainChange(Input):
    name: Name | None = None
    description: Description | None = None


class DomainOut(Output):
    id: str
    name: str
    description: str
    base_model: str
    active_adapter_id: str | None = Field(description="Draws when a generation names no adapter; null at first.")
    created_at: Time
    updated_at: Time
