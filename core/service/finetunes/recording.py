"""Progress, checkpoints, samples and trained adapters of fine-tunes, as workers record them."""

import datetime
import math
from dataclasses import dataclass

from sqlalchemy.orm import Session

from core.artifact.file import Artifact
from core.artifact.training import StopReason
from core.service import adapters, discards, domains, jobs, metering
from core.service.db.models import Finetune
from core.service.db.session import database_now
from core.service.jobs import Claim
from core.service.storage import StoredObject

_REPLACED_FOR = datetime.timedelta(hours=1)
"""Time that a checkpoint is kept after two newer ones exist: an attempt that has just begun may still read it."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """Figures of a fine-tune that has succeeded."""

    losses: dict[str, float]
    """Losses on the held-out images: `adapter` with their own labels, `base` and `adapter_null` with the null label."""
    adapter_step: int
    """Training step that the adapter is of."""
    stop_reason: StopReason


def record_claim(session: Session, row: Finetune) -> None:
    """Adds a status event for a new attempt, unless the last event reports that the fine-tune waits for a missing
    resource: then the next event should be that of `record_start`, when training really continues."""
    if not jobs.is_told_to_wait(session, row):
        jobs.report(session, row, "status", {"status": "running", "attempt": row.attempt})


def record_start(session: Session, row: Finetune, held_out_loss_base: float, parameters: int, step: int) -> None:
    row.held_out_loss_base = _finite(held_out_loss_base)
    row.trainable_parameters, row.step = parameters, step
    jobs.report(session, row, "status", {"status": "running", "step": step, "steps": row.training.steps})


def record_progress(
    session: Session, row: Finetune, step: int, *, loss: float, gradient_norm: float, seconds: float
) -> None:
    """Adds a progress event to a fine-tune, and updates its step, loss, estimated remaining time and metered usage.
    `seconds` is the device time since the previous progress event."""
    taken = step - row.step
    row.step, row.loss = step, loss
    row.seconds += seconds
    row.eta_seconds = (row.training.steps - step) * seconds / taken if taken > 0 else None
    data = {"step": step, "steps": row.training.steps, "loss": loss, "gradient_norm": gradient_norm, "seconds": seconds}
    jobs.report(session, row, "progress", {**data, "eta_seconds": row.eta_seconds})
    metering.meter(session, row.tenant_id, training_seconds=seconds)


def record_evaluation(session: Session, row: Finetune, step: int, held_out_loss: float, best_step: int) -> None:
    """Adds an evaluation event to a fine-tune: the held-out loss after `step`, and the step with the lowest so far."""
    jobs.report(session, row, "evaluation", {"step": step, "held_out_loss": held_out_loss, "best_step": best_step})


def record_checkpoint(session: Session, row: Finetune, step: int, stored: StoredObject) -> None:
    """Records a stored checkpoint as the fine-tune's latest, from which another attempt can continue. Keeps the
    previous checkpoint as a fallback, and schedules the one before it for deletion."""
    replaced_bytes = row.checkpoint_bytes
    if row.checkpoint_key is not None and row.checkpoint_key != stored.key:
        if row.previous_checkpoint_key is not None:
            discards.record(session, [(row.tenant_id, row.previous_checkpoint_key)], _REPLACED_FOR)
        replaced_bytes = row.previous_checkpoint_bytes
        row.previous_checkpoint_key, row.previous_checkpoint_sha256 = row.checkpoint_key, row.checkpoint_sha256
        row.previous_checkpoint_bytes = row.checkpoint_bytes
    row.checkpoint_key, row.checkpoint_sha256, row.checkpoint_step = stored.key, stored.sha256, step
    row.checkpoint_bytes, row.checkpoint_at = stored.size, database_now(session)
    jobs.keep_progress(row)
    session.flush()
    metering.add_stored_bytes(session, row.domain_id, stored.size - replaced_bytes)


def checkpoints(row: Finetune) -> list[tuple[str, str]]:
    """Returns the storage key and SHA-256 of each checkpoint that a fine-tune can continue from, newest first."""
    pairs = (
        (row.checkpoint_key, row.checkpoint_sha256),
        (row.previous_checkpoint_key, row.previous_checkpoint_sha256),
    )
    return [(key, sha256 or "") for key, sha256 in pairs if key is not None]


def record_restart(session: Session, row: Finetune, step: int, kept: tuple[str, str] | None, reason: str) -> None:
    """Records that an attempt continues from an earlier step than that of the latest checkpoint, because the latest
    checkpoint cannot be read. `kept` is the storage key and SHA-256 of the checkpoint to continue from, or None to
    start from scratch. The row then no longer references unreadable checkpoints, so the search for orphans deletes
    them."""
    counted = {row.checkpoint_key: row.checkpoint_bytes, row.previous_checkpoint_key: row.previous_checkpoint_bytes}
    row.checkpoint_key, row.checkpoint_sha256 = kept or (None, None)
    row.previous_checkpoint_key = row.previous_checkpoint_sha256 = None
    row.checkpoint_bytes = counted[row.checkpoint_key] if row.checkpoint_key else 0
    row.previous_checkpoint_bytes = 0
    row.checkpoint_step = step
    jobs.report(session, row, "status", {"status": "running", "restarted_from": step, "reason": reason})
    session.flush()
    metering.add_stored_bytes(session, row.domain_id, row.checkpoint_bytes - sum(counted.values()))


def add_sample(session: Session, row: Finetune, step: int, stored: StoredObject) -> None:
    """Adds an event for a stored sample image, which was generated with the adapter as trained up to `step`."""
    jobs.report(session, row, "sample", {"step": step, "key": stored.key, "size_bytes": stored.size})
    metering.add_stored_bytes(session, row.domain_id, stored.size)


def publish(session: Session, claim: Claim, artifact: Artifact, stored: StoredObject, result: Result) -> bool:
    """Adds a fine-tune's stored adapter to its domain, and ends the fine-tune as succeeded. Returns False, and changes
    nothing, when the worker's claim on the fine-tune was lost."""
    finetune = jobs.guarded(session, Finetune, claim)
    if finetune is None:
        return False
    domain = domains.get(session, finetune.domain_id, lock=True)
    adapter = adapters.publish(
        session, domain, artifact, stored, finetune_id=finetune.id, promote=finetune.auto_promote
    )
    finetune.adapter_id = adapter.id
    finetune.held_out_loss_base = _finite(result.losses["base"])
    finetune.held_out_loss_adapter = _finite(result.losses["adapter"])
    finetune.held_out_loss_adapter_null = _finite(result.losses["adapter_null"])
    finetune.eta_seconds = 0.0
    details = {"adapter_step": result.adapter_step, "stop_reason": result.stop_reason}
    finetune.adapter_step, finetune.stop_reason = result.adapter_step, result.stop_reason
    jobs.finish(session, finetune, "succeeded", adapter_id=adapter.id, **details)
    return True


def _finite(value: float) -> float | None:
    """Returns the loss, or None if it is NaN or infinite: the held-out loss of a data set without held-out images is
    NaN."""
    return value if math.isfinite(value) else None
