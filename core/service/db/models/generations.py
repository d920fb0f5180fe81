"""Tables of generations, their images and their previews."""

import datetime
from typing import Any

from sqlalchemy import BigInteger, ForeignKey, Index, String
from sqlalchemy.orm import Mapped, mapped_column, relationship

from core.artifact.sampling import SamplingSettings
from core.service.db.base import Base, Created, DomainOwned, JsonOf, TenantOwned, partial_index
from core.service.db.models.jobs import JobColumns, lease_index

_NEWEST = ("tenant_id", "generation_id", "index")
"""Columns of the indexes that list a tenant's images by time."""


class Generation(JobColumns, Base):
    __tablename__ = "generations"
    __table_args__ = (
        lease_index("generations"),
        Index(None, "tenant_id", "id"),
        Index(None, "domain_id", "id"),
        Index(None, "domain_id", "class_name", "id"),
        Index(None, "adapter_id", "id"),
        Index(None, "finished_at"),
        partial_index("ix_generations_pictured", "expired_at IS NULL", "domain_id", "id"),
        partial_index("ix_generations_covers", "expired_at IS NULL", "adapter_id", "id"),
        partial_index("ix_generations_unexpired", "expired_at IS NULL", "finished_at"),
    )

    domain_id: Mapped[str] = mapped_column(String(40), ForeignKey("domains.id", ondelete="CASCADE"))
    adapter_id: Mapped[str | None] = mapped_column(String(40))
    """Id of the adapter that generates the images; None means the base model without an adapter."""
    mix_adapter_id: Mapped[str | None] = mapped_column(String(40))
    """Id of an adapter of the same tenant that is mixed into it; None means none."""
    mix_class_id: Mapped[int | None]
    """Index of the class in that adapter."""
    class_id: Mapped[int]
    class_name: Mapped[str] = mapped_column(String(200))
    count: Mapped[int]
    seed: Mapped[int] = mapped_column(BigInteger)
    sampling: Mapped[SamplingSettings] = mapped_column(JsonOf(SamplingSettings))
    preview_count: Mapped[int] = mapped_column(default=0)
    """Number of previews requested for each image."""
    deadline_at: Mapped[datetime.datetime | None]
    webhook_id: Mapped[str | None] = mapped_column(String(40))
    """Id of a webhook that is sent the end of this generation, whatever events it is for. Not a foreign key, since the
    webhook may be deleted before."""
    webhook_url: Mapped[str | None] = mapped_column(String(2000))
    """URL to which it is sent; None means the webhook's own."""
    progress: Mapped[float] = mapped_column(default=0.0)
    model_evaluations: Mapped[int] = mapped_column(default=0)
    timings: Mapped[dict[str, Any]] = mapped_column(default=dict)
    expired_at: Mapped[datetime.datetime | None]
    """Time when retention deleted the generation's images, apart from favourites that are kept, and previews."""
    images: Mapped[list["GenerationImage"]] = relationship(
        order_by="GenerationImage.index", passive_deletes=True, back_populates="generation"
    )
    previews: Mapped[list["GenerationPreview"]] = relationship(order_by="GenerationPreview.step", passive_deletes=True)


class GenerationImage(DomainOwned, Base):
    """Generated image. Favourites and labels are columns of its row, since every image has a row already."""

    __tablename__ = "generation_images"
    __table_args__ = (
        Index(None, "tenant_id", "generation_id", "index"),
        Index(None, "domain_id", "generation_id", "index"),
        Index(None, "tenant_id", "seed"),
        partial_index("ix_generation_images_favourites", "favourite_since IS NOT NULL", *_NEWEST),
        partial_index("ix_generation_images_labelled", "label IS NOT NULL", *_NEWEST),
    )

    generation_id: Mapped[str] = mapped_column(
        String(40), ForeignKey("generations.id", ondelete="CASCADE"), primary_key=True
    )
    index: Mapped[int] = mapped_column(primary_key=True)
    domain_id: Mapped[str] = mapped_column(String(40))
    """Id of the generation's domain. Not a foreign key, since the generation has one. It is stored here too, so that
    one index finds the images of a domain in order, however many generations have none left."""
    object_key: Mapped[str] = mapped_column(String(500))
    seed: Mapped[int] = mapped_column(BigInteger)
    sha256: Mapped[str] = mapped_column(String(64))
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    width: Mapped[int]
    height: Mapped[int]
    favourite_since: Mapped[datetime.datetime | None]
    """Time when the tenant marked the image as a favourite; None if it is none."""
    label: Mapped[str | None] = mapped_column(String(200))
    """Text that the tenant gave the image."""
    generation: Mapped[Generation] = relationship(back_populates="images")

    @property
    def id(self) -> str:
        """Id of the image in lists and requests, such as `gen_01jd…/0`."""
        return f"{self.generation_id}/{self.index}"

    @property
    def favourite(self) -> bool:
        return self.favourite_since is not None


class GenerationPreview(TenantOwned, Base):
    """Preview of one generated image: the final image as predicted at one of the sampling steps."""

    __tablename__ = "generation_previews"

    generation_id: Mapped[str] = mapped_column(
        String(40), ForeignKey("generations.id", ondelete="CASCADE"), primary_key=True
    )
    index: Mapped[int] = mapped_column(primary_key=True)
    step: Mapped[int] = mapped_column(primary_key=True)
    object_key: Mapped[str] = mapped_column(String(500))
    sha256: Mapped[str] = mapped_column(String(64))
    size_bytes: Mapped[int] = mapped_column(BigInteger, default=0)
    created_at: Mapped[Created] = mapped_column(index=True)
