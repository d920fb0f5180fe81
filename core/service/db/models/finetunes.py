"""Tables of fine-tunes and of their events."""

import datetime
from typing import Any

from sqlalchemy import BigInteger, ForeignKey, Integer, String
from sqlalchemy.orm import Mapped, mapped_column

from core.artifact.training import TrainingSettings
from core.service.db.base import Base, Created, JsonOf, TenantOwned, partial_index
from core.service.db.models.jobs import JobColumns, lease_index


class Finetune(JobColumns, Base):
    __tablename__ = "finetunes"
    __table_args__ = (
        lease_index("finetunes"),
        partial_index("ix_finetunes_unthinned", "events_thinned_at IS NULL", "finished_at"),
        partial_index("ix_finetunes_sampled", "samples_removed_at IS NULL", "finished_at"),
        partial_index("ix_finetunes_checkpointed", "checkpoint_key IS NOT NULL", "finished_at"),
    )

    dataset_id: Mapped[str] = mapped_column(String(40), index=True)
    """Id of the data set. Not a foreign key, since the data set may be deleted once the fine-tune has ended."""
    method: Mapped[str] = mapped_column(String(20))
    preset: Mapped[str | None] = mapped_column(String(20))
    sites: Mapped[dict[str, Any]]
    training: Mapped[TrainingSettings] = mapped_column(JsonOf(TrainingSettings))
    from_adapter_id: Mapped[str | None] = mapped_column(String(40), index=True)
    """Id of the adapter that the fine-tune continues from, which may have been deleted since; None starts from the
    base."""
    image_size: Mapped[int | None]
    """Width and height of the training images, in pixels; None means the image size of the base model."""
    train_class_table: Mapped[bool] = mapped_column(default=True)
    """False keeps the base model's class embeddings."""
    auto_promote: Mapped[bool] = mapped_column(default=False)
    step: Mapped[int] = mapped_column(default=0)
    loss: Mapped[float | None]
    held_out_loss_base: Mapped[float | None]
    held_out_loss_adapter: Mapped[float | None]
    held_out_loss_adapter_null: Mapped[float | None]
    eta_seconds: Mapped[float | None]
    trainable_parameters: Mapped[int | None]
    adapter_id: Mapped[str | None] = mapped_column(String(40))
    adapter_step: Mapped[int | None]
    """Training step that the adapter is of: an earlier one than `step` if the best moving average was kept."""
    stop_reason: Mapped[str | None] = mapped_column(String(20))
    """Reason why the training of a successful fine-tune ended: all_steps or early_stopping."""
    checkpoint_key: Mapped[str | None] = mapped_column(String(500))
    checkpoint_sha256: Mapped[str | None] = mapped_column(String(64))
    previous_checkpoint_key: Mapped[str | None] = mapped_column(String(500))
    """Storage key of the checkpoint before the last one, for use when the last one cannot be read."""
    previous_checkpoint_sha256: Mapped[str | None] = mapped_column(String(64))
    previous_checkpoint_bytes: Mapped[int] = mapped_column(BigInteger, default=0)
    checkpoint_step: Mapped[int] = mapped_column(default=0)
    checkpoint_bytes: Mapped[int] = mapped_column(BigInteger, default=0)
    checkpoint_at: Mapped[datetime.datetime | None]
    events_thinned_at: Mapped[datetime.datetime | None]
    """Time when retention deleted most of the fine-tune's progress events, leaving some points of the loss curve."""
    samples_removed_at: Mapped[datetime.datetime | None]
    last_event_id: Mapped[int] = mapped_column(BigInteger, default=0, server_default="0")
    """Highest id of the fine-tune's events so far. It is stored because retention deletes events, and no id may be
    reused."""


class FinetuneEvent(TenantOwned, Base):
    """Event of a fine-tune, of the type status, progress, evaluation, sample or error. Ids count the events of one
    fine-tune, give their order, and are the values of the `Last-Event-ID` header."""

    __tablename__ = "finetune_events"

    finetune_id: Mapped[str] = mapped_column(
        String(40), ForeignKey("finetunes.id", ondelete="CASCADE"), primary_key=True
    )
    id: Mapped[int] = mapped_column(BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=False)
    type: Mapped[str] = mapped_column(String(20))
    data: Mapped[dict[str, Any]]
    created_at: Mapped[Created]
