"""Fine-tunes: what tenants do with them. `recording` writes what workers report of them."""

import datetime
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from core.artifact.base import BaseDescription
from core.artifact.errors import InvalidRequest, NotFound
from core.artifact.file import size_without_manifest
from core.artifact.footprint import Footprint
from core.artifact.jobs import ENDED
from core.artifact.sites import (
    METHODS,
    PRESETS,
    SITES,
    Method,
    MethodSites,
    count,
    sites_of,
    split_guided,
    trainable_shapes,
)
from core.artifact.training import DEFAULT_TRAINING, TrainingSettings, suggested_steps
from core.service import adapters, audit, deletions, domains, fleet, idempotency, jobs, metering
from core.service.config import Settings
from core.service.datasets import service as datasets
from core.service.db.base import new_id
from core.service.db.lookup import require
from core.service.db.models import Dataset, Deletion, Finetune, FinetuneEvent
from core.service.db.paging import Page, PageRequest, created_between, fetch_page
from core.service.errors import (
    DatasetNotReady,
    FinetuneInUse,
    ImageSizeUnsupported,
    JobFinished,
    MethodNotServed,
    NotEnded,
)
from core.service.finetunes import repository
from core.service.jobs import Dispatcher
from core.service.quotas import Quotas
from core.service.resources import Resources

_CURVE_POINTS = 2000
"""Max evenly spaced points of a loss curve in one response; the last point is added to them."""


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
    train_class_table: bool = True
    """False keeps the base model's class embeddings, as the paper does where only the image size changes."""
    from_adapter_id: str | None = None
    """Adapter to continue from. It determines method, sites and image size, so a request may only repeat them."""
    stated: frozenset[str] = frozenset()
    """Names of the fields that the tenant's request states."""
    auto_promote: bool = False

    @property
    def trained_sites(self) -> MethodSites:
        return self.sites or PRESETS[self.preset]


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
    QuotaExceeded, StorageQuotaExceeded, DatasetNotReady, MethodNotServed, InvalidRequest, and the errors of
    `continued`."""
    if request.image_size is not None or request.from_adapter_id is not None or not request.train_class_table:
        domains.get(session, domain_id)
        base = fleet.served_base(session, resources.settings.base_model)
        request = continued(session, checked_size(request, base), base)
        _trained_classes(session, request, _ready_dataset(session, domain_id, request.dataset_id), base)
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
        train_class_table=request.train_class_table,
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
    classes = _trained_classes(session, request, dataset, base)
    training, guidance = request.training, request.training.distill_guidance is not None
    shapes = trainable_shapes(base.config, request.method, request.trained_sites, classes, guidance=guidance)
    parameters = count(split_guided(shapes)[0])
    batch_size = training.batch_size
    seen = training.steps * batch_size
    tokens = batch_size * base.config.tokens * base.scale_of(request.image_size) ** 2
    rate = repository.seconds_per_image(session, request.method, request.image_size, base.digest)
    timed = seen + training.distillation.steps * batch_size if guidance else seen  # those steps take twice the time
    seconds = None if rate is None else rate * timed
    holders = [worker for worker in fleet.workers(session) if worker.base_digest == base.digest]
    device = "cuda" if any(worker.device.startswith("cuda") for worker in holders) else "cpu"
    footprint = Footprint.of(base.config, request.method, base.scale_of(request.image_size), device)
    at_once = footprint.images_at_once(batch_size, device, memory_bytes)
    return Estimate(
        trainable_parameters=parameters,
        trainable_fraction=parameters / base.parameters,
        adapter_bytes=size_without_manifest(shapes),
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
    finetune = require(session, Finetune, "finetune", id, lock=True)  # a worker may end it just now
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


def _require_served(method: Method) -> None:
    if method not in METHODS:
        raise MethodNotServed(method, METHODS, [name for name in SITES if name not in METHODS])


def _trained_classes(session: Session, request: FinetuneRequest, dataset: Dataset, base: BaseDescription) -> int | None:
    """Returns the number of classes whose embeddings are trained; None if the embeddings of the base, and of the
    version to continue from, are kept. Raises NotFound, and InvalidRequest if they are to be kept but neither has one
    of the classes."""
    names = [label["name"] for label in dataset.classes]
    if request.train_class_table:
        return len(names)
    usable, owner = set(base.class_names), "the base has"
    if request.from_adapter_id is not None:
        usable.update(adapters.get(session, request.from_adapter_id).class_names)
        owner = "the base and the version to continue from have"
    if unknown := [name for name in names if name not in usable]:
        raise InvalidRequest("body.train_class_table", f"must be true: {owner} no class {', '.join(unknown[:5])}")
    return None


def _ready_dataset(session: Session, domain_id: str, id: str, *, lock: bool = False) -> Dataset:
    dataset = datasets.get(session, id, lock=lock)
    if dataset.domain_id != domain_id:
        raise NotFound("dataset", id)
    if dataset.status != "ready":
        raise DatasetNotReady(id, dataset.status)
    return dataset
