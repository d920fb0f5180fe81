"""Fine-tunes: tenants create, estimate and cancel them; workers record their progress and results."""

import datetime
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from core.artifact.base import BaseDescription
from core.artifact.errors import InvalidRequest, NotFound
from core.artifact.file import Artifact
from core.artifact.footprint import Footprint
from core.artifact.jobs import ENDED
from core.artifact.sites import METHODS, PRESETS, SITES, Method, MethodSites, count, sites_of, trainable_shapes
from core.artifact.training import DEFAULT_TRAINING, StopReason, TrainingSettings, suggested_steps
from core.service import adapters, audit, deletions, discards, domains, fleet, idempotency, jobs, metering
from core.service.config import Settings
from core.service.datasets import service as datasets
from core.service.db.base import new_id
from core.service.db.lookup import require
from core.service.db.models import Dataset, Deletion, Finetune, FinetuneEvent
from core.service.db.paging import Page, PageRequest, created_between, fetch_page
from core.service.db.session import database_now
from core.service.errors import (
    DatasetNotReady,
    FinetuneInUse,
    ImageSizeUnsupported,
    JobFinished,
    MethodNotServed,
    NotEnded,
)
from core.service.finetunes import repository
from core.service.jobs import Claim, Dispatcher
from core.service.quotas import Quotas
from core.service.resources import Resources
from core.service.storage import StoredObject

_CURVE_POINTS = 2000
"""Max evenly spaced points of a loss curve in one response; the last point is added to them."""
_REPLACED_FOR = datetime.timedelta(hours=1)
"""Time that a checkpoint is kept after two newer ones exist: an attempt that has just begun may still read it."""


@dataclass(frozen=True, kw_only=True)
class FinetuneRequest:
    """A tenant's request for a fine-tune. The API has already validated the ranges of the values."""

    dataset_id: str
    method: Method = "difffit"
    preset: str = "paper"
    sites: MethodSites | None = None
    """Sites that are trained; None means those of the preset."""
    training: TrainingSettings = DEFAULT_TRAINING
    image_size: int | None = None
    """Side length in pixels: the base model's image size, or twice that. None means the base model's."""
    from_adapter_id: str | None = None
    """Adapter to continue from. It determines method, sites and image size, so a request may only repeat them."""
    stated: frozenset[str] = frozenset()
    """Names of the fields that the tenant's request states."""
    auto_promote: bool = False

    @property
    def trained_sites(self) -> MethodSites:
        return self.sites or PRESETS[self.preset]


@dataclass(frozen=True, kw_only=True)
class Result:
    """Figures of a fine-tune that has succeeded."""

    losses: dict[str, float]
    """Losses on the held-out images: `adapter` with their own labels, `base` and `adapter_null` with the null label."""
    adapter_step: int
    """Training step that the adapter is of."""
    stop_reason: StopReason


@dataclass(frozen=True)
class Estimate:
    """Estimated cost of a fine-tune that has not been started."""

    trainable_parameters: int
    trainable_fraction: float
    adapter_bytes: int
    images_seen: int
    epochs: float
    suggested_steps: int
    """Number of training steps that suits the data set and the batch size."""
    tokens: int
    """Number of tokens of all images in one training step's batch. An image of twice the base's side length has four
    times as many tokens."""
    seconds: float | None
    images_at_once: int
    """Number of a batch's images in one forward and backward pass; a larger batch takes several passes. 0 when not even
    one image fits into the workers' memory."""
    memory_bytes: int
    """Memory that a training step takes on the worker."""


def submit(session: Session, resources: Resources, domain_id: str, request: FinetuneRequest) -> Finetune:
    """Creates a fine-tune within the tenant's quota. Raises NotFound, BaseNotLoaded, ImageSizeUnsupported,
    QuotaExceeded, DatasetNotReady, MethodNotServed, and the errors of `continued`."""
    if request.image_size is not None or request.from_adapter_id is not None:
        domains.get(session, domain_id)
        base = fleet.served_base(session, resources.settings.base_model)
        request = continued(session, checked_size(request, base), base)
    Quotas(session, resources.settings).admit_finetune()
    return create(session, resources.dispatcher, domain_id, request)


def create(session: Session, dispatcher: Dispatcher, domain_id: str, request: FinetuneRequest) -> Finetune:
    """Creates a fine-tune without checking quotas. A worker can start it after the commit. The request must have been
    checked by `continued` and `checked_size`. Raises NotFound, DatasetNotReady, MethodNotServed."""
    _require_served(request.method)
    domain = domains.get(session, domain_id)
    dataset = _ready_dataset(session, domain_id, request.dataset_id, lock=True)  # against its deletion meanwhile
    finetune = Finetune(
        id=new_id("ft"),
        tenant_id=domain.tenant_id,
        domain_id=domain.id,
        dataset_id=dataset.id,
        status="queued",
        method=request.method,
        preset=next((name for name, sites in PRESETS.items() if sites == request.trained_sites), None),
        sites=request.trained_sites.to_json(),
        training=request.training,
        from_adapter_id=request.from_adapter_id,
        image_size=request.image_size,
        auto_promote=request.auto_promote,
    )
    session.add(finetune)
    session.flush()
    jobs.report(session, finetune, "status", {"status": "queued"})
    jobs.dispatch(session, dispatcher, finetune)
    audit.record(session, "finetune.create", finetune.id)
    return finetune


def dry_run(session: Session, settings: Settings, domain_id: str, request: FinetuneRequest) -> Estimate:
    """Estimates the cost of a fine-tune of the base model that the workers have loaded, without creating the fine-tune.
    Raises NotFound, BaseNotLoaded, ImageSizeUnsupported, DatasetNotReady, MethodNotServed, and the errors of
    `continued`."""
    domains.get(session, domain_id)  # first, so that another tenant's domain raises NotFound, never BaseNotLoaded
    base = fleet.served_base(session, settings.base_model)
    request = continued(session, checked_size(request, base), base)
    return estimate(session, domain_id, request, base, settings.training_memory_bytes)


def estimate(
    session: Session, domain_id: str, request: FinetuneRequest, base: BaseDescription, memory_bytes: int | None = None
) -> Estimate:
    """Estimates the cost of a fine-tune of the model `base`. `memory_bytes` is the workers' memory limit for a training
    step, or None if no limit is set. Raises NotFound, DatasetNotReady, MethodNotServed."""
    _require_served(request.method)
    domains.get(session, domain_id)
    dataset = _ready_dataset(session, domain_id, request.dataset_id)
    shapes = trainable_shapes(base.config, request.method, request.trained_sites, len(dataset.classes))
    parameters = count(shapes)
    batch_size = request.training.batch_size
    seen = request.training.steps * batch_size
    tokens = batch_size * base.config.tokens * base.scale_of(request.image_size) ** 2
    rate = repository.seconds_per_image(session, request.method, request.image_size, base.digest)
    seconds = None if rate is None else rate * seen
    holders = [worker for worker in fleet.workers(session) if worker.base_digest == base.digest]
    device = "cuda" if any(worker.device.startswith("cuda") for worker in holders) else "cpu"
    footprint = Footprint.of(base.config, request.method, base.scale_of(request.image_size), device)
    at_once = footprint.images_at_once(batch_size, device, memory_bytes)
    return Estimate(
        trainable_parameters=parameters,
        trainable_fraction=parameters / base.parameters,
        adapter_bytes=4 * parameters,
        images_seen=seen,
        epochs=seen / dataset.images,
        suggested_steps=suggested_steps(dataset.images, batch_size),
        tokens=tokens,
        seconds=seconds,
        images_at_once=at_once,
        memory_bytes=footprint.total_bytes(batch_size, max(1, at_once)),
    )


def continued(session: Session, request: FinetuneRequest, base: BaseDescription) -> FinetuneRequest:
    """Returns the request with the method, sites and image size of the adapter that it continues from; unchanged if it
    starts from the base. `checked_size` must have checked the request before. Raises NotFound, AdapterQuarantined,
    BaseMismatch, and InvalidRequest if the request states another method, preset or image size."""
    if request.from_adapter_id is None:
        return request
    adapter = adapters.usable(session, request.from_adapter_id, base)
    own: dict[str, Any] = {"method": adapter.method, "image_size": adapter.manifest.get("image_size")}
    for name, value in {**own, "preset": adapter.preset}.items():
        if name in request.stated and getattr(request, name) != value:
            raise InvalidRequest(f"body.{name}", "differs from the version to continue from. Leave it out")
    return replace(request, **own, sites=sites_of(own["method"], adapter.manifest["sites"]))


def checked_size(request: FinetuneRequest, base: BaseDescription) -> FinetuneRequest:
    """Returns the request with its `image_size` set to None if that is the base model's own size. Raises
    ImageSizeUnsupported when the base model cannot generate images of the requested size."""
    try:
        return replace(request, image_size=None) if base.scale_of(request.image_size) == 1 else request
    except ValueError as error:
        raise ImageSizeUnsupported(str(error)) from error


def get(session: Session, id: str) -> Finetune:
    """Returns the fine-tune with this id. Raises NotFound."""
    return require(session, Finetune, "finetune", id)


@dataclass(frozen=True, kw_only=True)
class FinetuneFilter:
    """Selection of fine-tunes. None selects all."""

    domain_id: str | None = None
    dataset_id: str | None = None
    from_adapter_id: str | None = None
    created_after: datetime.datetime | None = None
    created_before: datetime.datetime | None = None


def page(session: Session, wanted: FinetuneFilter, request: PageRequest) -> Page[Finetune]:
    """Returns a page of the tenant's fine-tunes that `wanted` selects, newest first. Raises NotFound for a domain that
    does not exist, InvalidCursor."""
    if wanted.domain_id is not None:
        domains.get(session, wanted.domain_id)
    columns = (Finetune.domain_id, Finetune.dataset_id, Finetune.from_adapter_id)
    equal = [column == value for column in columns if (value := getattr(wanted, column.key)) is not None]
    created = created_between(Finetune, Finetune.id, wanted.created_after, wanted.created_before)
    return fetch_page(session, select(Finetune).where(*equal, *created), Finetune.id, request)


def events_after(session: Session, id: str, last_id: int) -> Sequence[FinetuneEvent]:
    get(session, id)
    return repository.events_after(session, id, last_id)


def metrics(session: Session, id: str) -> list[dict[str, Any]]:
    """Returns a fine-tune's loss curve as the data of its progress events, thinned to about `_CURVE_POINTS` events.
    Raises NotFound."""
    get(session, id)
    return list(repository.points(session, id, "progress", _CURVE_POINTS))


def evaluations(session: Session, id: str) -> list[dict[str, Any]]:
    """Returns the held-out losses during a fine-tune as the data of its evaluation events, thinned like the loss curve.
    Raises NotFound."""
    get(session, id)
    return list(repository.points(session, id, "evaluation", _CURVE_POINTS))


def cancel(session: Session, id: str) -> Finetune:
    """Cancels a fine-tune: at once if it is queued, at its next training step if it is running. Raises NotFound,
    JobFinished."""
    finetune = get(session, id)
    if finetune.status in ENDED:
        raise JobFinished("fine-tune", id, finetune.status)
    jobs.request_cancel(session, finetune)
    audit.record(session, "finetune.cancel", id)
    return finetune


def delete(session: Session, id: str) -> Deletion:
    """Deletes a fine-tune that has ended, with its events and sample images, and returns the receipt of the deletion.
    Workers delete its stored objects later. Raises NotFound, NotEnded, and FinetuneInUse while the version that it
    trained exists."""
    finetune = require(session, Finetune, "finetune", id, lock=True)
    if finetune.status not in ENDED:
        raise NotEnded("fine-tune", id, finetune.status)
    if (adapter_id := repository.adapter_of(session, id)) is not None:
        raise FinetuneInUse(id, adapter_id)
    events, sample_bytes = repository.events_and_bytes(session, id)
    rows = {FinetuneEvent.__tablename__: events, Finetune.__tablename__: 1}
    prefix = f"{folder(finetune)}/"
    deletion = deletions.receipt(session, "finetune", id, finetune.tenant_id, prefix, rows=rows)
    idempotency.forget(session, finetune.tenant_id, id)
    session.delete(finetune)
    audit.record(session, "finetune.delete", id, detail={"deletion": deletion.id})
    stored_bytes = sample_bytes + finetune.checkpoint_bytes + finetune.previous_checkpoint_bytes
    metering.add_stored_bytes(session, finetune.domain_id, -stored_bytes)
    return deletion


def folder(row: Finetune) -> str:
    """Returns the storage key prefix of a fine-tune's objects, without a slash at the end."""
    return f"{domains.folder(row.tenant_id, row.domain_id)}finetunes/{row.id}"


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


def _require_served(method: Method) -> None:
    if method not in METHODS:
        raise MethodNotServed(method, METHODS, [name for name in SITES if name not in METHODS])


def _ready_dataset(session: Session, domain_id: str, id: str, *, lock: bool = False) -> Dataset:
    dataset = datasets.get(session, id, lock=lock)
    if dataset.domain_id != domain_id:
        raise NotFound("dataset", id)
    if dataset.status != "ready":
        raise DatasetNotReady(id, dataset.status)
    return dataset


def _finite(value: float) -> float | None:
    """Returns the loss, or None if it is NaN or infinite: the held-out loss of a data set without held-out images is
    NaN."""
    return value if math.isfinite(value) else None
