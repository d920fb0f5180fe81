from pydantic import Field

from api.schemas.common import Description, Input, Name, Output, Time, optional


class DomainCreate(Input):
    name: Name = Field(description="Unique among your domains.")
    description: Description = ""


class DomainChange(Input):
    """Fields that are left out stay as they are."""

    name: Name = optional("Unique among your domains.")
    description: Description = optional()


class DomainOut(Output):
    id: str = Field(examples=["dom_01m84b6j2hsp29f4pz3j0s1ax6"])
    name: str
    description: str
    base_model: str = Field(description="The base that the service held when the domain was made.", examples=["mini"])
    active_adapter_id: str | None = Field(description="Draws when a generation names no adapter; null at first.")
    cover_url: str | None = Field(
        None, description="Of its latest drawing: absolute, signed and expiring. Null while there is none."
    )
    created_at: Time
    updated_at: Time
