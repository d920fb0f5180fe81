from typing import Annotated

from pydantic import Field

from api.schemas.common import Input, Label, Output, SignedUrl, Time, optional
from api.schemas.generations import ImageOut, rendered_image
from core.service.db.models import GenerationImage

MAX_IMAGES = 500
"""Maximum number of images that one request may name."""


ImageId = Annotated[str, Field(pattern=r"^gen_[0-9a-z]{26}/[0-9]{1,9}$")]


class StoredImageOut(ImageOut):
    """Generated image, with what is needed to find it and to generate it again."""

    generation_id: str = Field(description="Its generation, which has all settings.")
    domain_id: str
    class_name: str
    adapter_id: str | None = Field(description="Version used; null for the base itself.")
    size_bytes: int
    created_at: Time = Field(description="Time when the generation was created.")

    @classmethod
    def of(cls, row: GenerationImage, signed: SignedUrl) -> "StoredImageOut":
        source = row.generation
        facts = {name: getattr(source, name) for name in ("domain_id", "class_name", "adapter_id", "created_at")}
        owner = {"generation_id": row.generation_id, "size_bytes": row.size_bytes}
        return cls.model_validate({**rendered_image(row, signed), **owner, **facts})


class ImageChange(Input):
    """Changes of an image. Omitted fields do not change."""

    favourite: bool = optional("Marks the image. Retention can keep favourites longer.")
    label: Label | None = optional("Text to find the image by; null removes it.")


class ImageSelection(Input):
    ids: list[ImageId] = Field(
        min_length=1,
        max_length=MAX_IMAGES,
        description="Ids of the images.",
        examples=[["gen_01m84b6j5r0q4d8n8c6t8y9k2p/0"]],
    )


class ImagesDeletedOut(Output):
    deleted: list[str] = Field(description="Ids of the deleted images. Ids of no image are left out.")
