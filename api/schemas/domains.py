from pydantic import Field

from api.schemas.common import KEPT_DAYS, KEPT_FAVOURITES, Description, Input, KeptDays, Name, Output, Time, optional


class DomainCreate(Input):
    name: Name = Field(description="Unique among your domains.")
    description: Description = ""


class DomainChange(Input):
    """Changes of a domain. Omitted fields do not change."""

    name: Name = optional("Unique among your domains.")
    description: Description = optional("Text for people.")
    keep_image_days: KeptDays | None = optional(KEPT_DAYS)
    keep_favourites: bool = optional(KEPT_FAVOURITES)


class DomainOut(Output):
    id: str = Field(examples=["dom_01m84b6j2hsp29f4pz3j0s1ax6"])
    name: str
    description: str
    base_model: str = Field(description="Base of the service when the domain was created.", examples=["mini"])
    active_adapter_id: str | None = Field(
        description="Adapter of generations that name none. Null until the first fine-tune succeeds."
    )
    keep_image_days: int | None = Field(description=KEPT_DAYS)
    keep_favourites: bool = Field(description=KEPT_FAVOURITES)
    cover_url: str | None = Field(
        None,
        description="URL of the latest generated image of its active version: absolute, signed, expires. Null while "
        "there is none.",
    )
    created_at: Time
    updated_at: Time
