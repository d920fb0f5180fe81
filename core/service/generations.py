"""Generations: jobs that generate images with an adapter. Tenants create and cancel them; workers record results."""

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

from sqlalchemy import ColumnElement, select, tuple_
from sqlalchemy.orm import Session, load_only, selectinload

from core.artifact.base import BaseDescription
from core.artifact.errors import InvalidRequest, NotFound, QueueFull, UnknownClass
from core.artifact.jobs import ENDED
from core.artifact.sampling import SamplingSettings
from core.artifact.seeds import random_seed
from core.service import adapters, audit, discards, domains, fleet, jobs, metering, quotas
from core.service.db.base import new_id
from core.service.db.lookup import find, require
from core.service.db.models import Adapter, Domain, Generation, GenerationImage, GenerationPreview
from core.service.db.paging import Page, PageRequest, created_between, fetch_page
from core.service.db.session import database_now
from core.service.errors import ImageExpired, JobFinished, NoActiveAdapter
from core.service.jobs import Claim, Dispatcher
from core.service.resources import Resources
from core.service.storage import StoredObject
from core.service.webhooks import service as webhooks

BASE = "base"
"""Value of `adapter_id` that generates with the base model alone, for comparison with an adapter."""
_MOST_RESULTS = 5000
"""Number of requested images and previews with which a page of generations ends. They fill a response, and need about
10 MB of memory; those of 100 generations may be 70,000."""


@dataclass(frozen=True, kw_only=True)
class GenerationRequest:
    """A tenant's request for generated images. The API has already validated the ranges of the values."""

    class_name: str | None = None
    class_id: int | None = None
    count: int = 1
    seed: int | None = None
    """Seed of the first image; None chooses a random one."""
    sampling: Mapping[str, Any] = field(default_factory=dict)
    """The sampling settings that the request chooses. The others get the defaults of `SamplingSettings.completed`."""
    adapter_id: str | None = None
    mix_adapter_id: str | None = None
    """Id of an adapter of any of the tenant's domains that is mixed into it, with the weight `mix_weight`."""
    priority: int = 0
    deadline_seconds: float | None = None
    previews: int = 0
    webhook_id: str | None = None
    """Id of a webhook that is sent the end of the generation, whatever events it is for."""
    webhook_url: str | None = None
    """URL to which it is sent; None means the webhook's own."""


@dataclass(frozen=True, kw_only=True)
class GenerationFilter:
    """Selection of generations, or of their images. None selects all."""

    domain_id: str | None = None
    class_name: str | None = None
    adapter_id: str | None = None
    """Id of an adapter, or BASE."""
    created_after: datetime.datetime | None = None
    created_before: datetime.datetime | None = None

    def conditions(self, domain_id: Any, generation_id: Any) -> list[ColumnElement[bool]]:
        """Returns the SQL conditions of this selection, for a statement with the table of generations. The arguments
        are the columns with the ids of domain and generation, in the table whose index gives the order."""
        conditions = created_between(Generation, generation_id, self.created_after, self.created_before)
        if self.domain_id is not None:
            conditions.append(domain_id == self.domain_id)
        if self.class_name is not None:
            conditions.append(Generation.class_name == self.class_name)
        if self.adapter_id is not None:
            conditions.append(Generation.adapter_id == (None if self.adapter_id == BASE else self.adapter_id))
        return conditions


@dataclass(frozen=True)
class DrawnImage:
    """One generated image of a generation, already in the object store."""

    index: int
    seed: int
    stored: StoredObject
    width: int
    height: int


def submit(
    session: Session, resources: Resources, domain_id: str, requests: Sequence[GenerationRequest]
) -> list[Generation]:
    """Creates a generation for each request, if the tenant's quotas allow all of them. Raises BaseNotLoaded,
    QuotaExceeded, StorageQuotaExceeded, WebhookQuotaExceeded, WebhookDisabled, WebhookUrlRefused, and the errors of
    `create`."""
    settings, limits = resources.settings, quotas.Quotas(session, resources.settings)
    domains.get(session, domain_id)  # first, so that another tenant's domain raises NotFound, never BaseNotLoaded
    base = fleet.served_base(session, settings.base_model)
    for id, url in {(request.webhook_id, request.webhook_url) for request in requests}:
        if id is not None:
            limits.allow_webhooks()
            webhooks.check(session, id, url, allow_private=settings.webhooks_allow_private)
    most_waiting = limits.admit_generation(sum(request.count for request in requests))
    return [
        create(session, resources.dispatcher, domain_id, request, base, most_waiting=most_waiting)
        for request in requests
    ]


def create(
    session: Session,
    dispatcher: Dispatcher,
    domain_id: str,
    request: GenerationRequest,
    base: BaseDescription,
    *,
    most_waiting: int,
) -> Generation:
    """Creates a generation with the requested adapter, by default the domain's active one, which must have been trained
    on the model `base`. A worker can start the generation after the commit.

    Raises NotFound, NoActiveAdapter, AdapterQuarantined, BaseMismatch, UnknownClass, InvalidRequest, and QueueFull when
    the tenant already has `most_waiting` queued generations.
    """
    domain = domains.get(session, domain_id)
    waiting = quotas.queued_generations(session)
    if waiting >= most_waiting:
        raise QueueFull(waiting, most_waiting)
    adapter = _adapter(session, domain, request.adapter_id, base)
    sampling = _sampling(request, adapter, base)
    known = list(base.class_names if adapter is None else adapter.class_names)
    class_id = _class_id(request, known)
    mix, mix_class_id = _mix(session, request, adapter, known[class_id], base)
    deadline = request.deadline_seconds
    generation = Generation(
        id=new_id("gen"),
        tenant_id=domain.tenant_id,
        domain_id=domain.id,
        adapter_id=adapter.id if adapter else None,
        mix_adapter_id=mix.id if mix else None,
        mix_class_id=mix_class_id,
        status="queued",
        class_id=class_id,
        class_name=known[class_id],
        count=request.count,
        seed=random_seed() if request.seed is None else request.seed,
        sampling=sampling,
        preview_count=request.previews,
        priority=request.priority,
        webhook_id=request.webhook_id,
        webhook_url=request.webhook_url,
        deadline_at=None if deadline is None else database_now(session) + datetime.timedelta(seconds=deadline),
        images=[],
        previews=[],
        timings={},
    )
    session.add(generation)
    session.flush()
    session.refresh(generation)
    jobs.dispatch(session, dispatcher, generation)
    audit.record(session, "generation.create", generation.id)
    return generation


def _sampling(request: GenerationRequest, adapter: Adapter | None, base: BaseDescription) -> SamplingSettings:
    """Returns the sampling settings of a request. Raises InvalidRequest if the adapter does not allow them."""
    learned = adapter.learned_guidance if adapter else None
    scale = base.scale_of(adapter.manifest.get("image_size")) if adapter else 1
    try:
        sampling = SamplingSettings.completed(request.sampling, learned, interpolates=scale == 1)
    except ValueError as error:
        raise InvalidRequest("body", str(error)) from error
    sampling.check_size(scale)
    return sampling


def get(session: Session, id: str) -> Generation:
    """Returns the generation with this id. Raises NotFound."""
    return require(session, Generation, "generation", id)


def page(session: Session, wanted: GenerationFilter, request: PageRequest) -> Page[Generation]:
    """Returns a page of the tenant's generations that `wanted` selects, newest first, with their images and previews.
    It ends early with the generation that reaches `_MOST_RESULTS`. Raises NotFound for a domain that does not exist,
    InvalidCursor."""
    if wanted.domain_id is not None:
        domains.get(session, wanted.domain_id)
    statement = select(Generation).where(*wanted.conditions(Generation.domain_id, Generation.id))
    page = fetch_page(session, statement, Generation.id, request)
    sums = accumulate(row.count * (1 + row.preview_count) for row in page.data)
    page = page.first(1 + sum(total < _MOST_RESULTS for total in sums))
    loaded = select(Generation).where(Generation.id.in_([row.id for row in page.data]))
    results = (selectinload(Generation.images), selectinload(Generation.previews))
    session.scalars(loaded.options(load_only(Generation.id), *results)).all()
    return page


def image(session: Session, id: str, index: int, *, lock: bool = False) -> GenerationImage:
    """Returns the row of a generation's image, and locks it with `lock`. Raises NotFound, or ImageExpired if retention
    has deleted the image."""
    row = session.get(GenerationImage, (id, index), with_for_update=lock)
    if row is None:
        _check_expired(session, id)
        raise NotFound("image", f"{id}/{index}")
    return row


def preview(session: Session, id: str, index: int, step: int) -> GenerationPreview:
    """Returns the row of the preview of image `index` at a sampling step. Raises NotFound, or ImageExpired if retention
    has deleted the generation's images."""
    key = (GenerationPreview.generation_id, GenerationPreview.index, GenerationPreview.step)
    # The join applies the filter of deleted domains.
    wanted = select(GenerationPreview).join(Generation, Generation.id == GenerationPreview.generation_id)
    row = session.scalar(wanted.where(tuple_(*key) == (id, index, step)))
    if row is None:
        _check_expired(session, id)
        raise NotFound("preview", f"{id}/{index}/{step}")
    return row


def cancel(session: Session, id: str) -> Generation:
    """Cancels a generation: at once if it is queued, at its next sampling step if it is running. Raises NotFound,
    JobFinished."""
    generation = require(session, Generation, "generation", id, lock=True)  # a worker may end it just now
    if generation.status in ENDED:
        raise JobFinished("generation", id, generation.status)
    jobs.request_cancel(session, generation)
    audit.record(session, "generation.cancel", id)
    return generation


def succeed(
    session: Session,
    claim: Claim,
    images: Sequence[DrawnImage],
    model_evaluations: int,
    timings: dict[str, Any],
) -> bool:
    """Records the stored images of a generation, ends it as succeeded, and meters its usage. Returns False, and changes
    nothing, when the worker's claim on the generation was lost."""
    generation = jobs.guarded(session, Generation, claim)
    if generation is None:
        return False
    for drawn in images:
        session.add(
            GenerationImage(
                generation_id=generation.id,
                index=drawn.index,
                tenant_id=generation.tenant_id,
                domain_id=generation.domain_id,
                object_key=drawn.stored.key,
                seed=drawn.seed,
                sha256=drawn.stored.sha256,
                size_bytes=drawn.stored.size,
                width=drawn.width,
                height=drawn.height,
            )
        )
    generation.progress, generation.model_evaluations, generation.timings = 1.0, model_evaluations, timings
    jobs.finish(session, generation, "succeeded")
    metering.meter(session, generation.tenant_id, images=len(images), model_evaluations=model_evaluations)
    for id in (generation.adapter_id, generation.mix_adapter_id):
        if id is not None:
            adapters.used(session, id)
    metering.add_stored_bytes(session, generation.domain_id, sum(drawn.stored.size for drawn in images))
    return True


def progress(session: Session, claim: Claim, share: float, model_evaluations: int) -> bool:
    """Records a generation's progress, from 0 to 1, and the model evaluations of this attempt. Returns False, and
    changes nothing, when the worker's claim on the generation was lost."""
    generation = jobs.guarded(session, Generation, claim)
    if generation is not None:
        generation.progress, generation.model_evaluations = share, model_evaluations
    return generation is not None


def add_preview(session: Session, claim: Claim, index: int, step: int, stored: StoredObject) -> bool:
    """Records a stored preview of the image `index` at a sampling step, and replaces an earlier attempt's preview of
    the same step. Returns False, and changes nothing, when the worker's claim on the generation was lost."""
    generation = jobs.guarded(session, Generation, claim)
    if generation is None:
        return False
    earlier, replaced_bytes = session.get(GenerationPreview, (generation.id, index, step)), 0
    if earlier is not None and earlier.object_key != stored.key:
        discards.record(session, [(earlier.tenant_id, earlier.object_key)])
        replaced_bytes = earlier.size_bytes
    session.merge(
        GenerationPreview(
            generation_id=generation.id,
            index=index,
            step=step,
            tenant_id=generation.tenant_id,
            object_key=stored.key,
            sha256=stored.sha256,
            size_bytes=stored.size,
        )
    )
    session.flush()
    metering.add_stored_bytes(session, generation.domain_id, stored.size - replaced_bytes)
    return True


def _check_expired(session: Session, id: str) -> None:
    """Raises ImageExpired if the generation exists, but retention has deleted its images."""
    generation = find(session, Generation, id)
    if generation is not None and generation.expired_at is not None:
        raise ImageExpired(id, generation.expired_at)


def _adapter(session: Session, domain: Domain, adapter_id: str | None, base: BaseDescription) -> Adapter | None:
    if adapter_id == BASE:
        return None
    id = adapter_id or domain.active_adapter_id
    if id is None:
        raise NoActiveAdapter(domain.id)
    if adapters.get(session, id).domain_id != domain.id:
        raise NotFound("adapter", id)
    return adapters.usable(session, id, base)


def _mix(
    session: Session, request: GenerationRequest, adapter: Adapter | None, class_name: str, base: BaseDescription
) -> tuple[Adapter | None, int | None]:
    """Returns the adapter that a request mixes into `adapter`, and the index of the class in it; None for a request
    without a mix. Raises NotFound, BaseMismatch, AdapterQuarantined, and InvalidRequest if the two cannot be mixed."""
    if request.mix_adapter_id is None:
        return None, None
    field = "body.mix_adapter_id"
    if adapter is None:
        raise InvalidRequest(field, "the base cannot be mixed; a version's adapter_scale moves it towards the base")
    # Locked, so that a deletion of the version or its domain either comes first or finds this generation.
    domains.get(session, adapters.get(session, request.mix_adapter_id).domain_id, lock=True)
    mix = adapters.usable(session, request.mix_adapter_id, base)
    for version in (adapter, mix):
        if version.learned_guidance is not None:
            raise InvalidRequest(field, f"'{version.id}' has learned guidance and cannot be mixed")
        if base.scale_of(version.manifest.get("image_size")) != 1:
            raise InvalidRequest(field, f"'{version.id}' is for images of twice the base's size and cannot be mixed")
    if class_name not in mix.class_names:
        both = [name for name in adapter.class_names if name in mix.class_names]
        some = ", ".join(both[:20]) + (", …" if len(both) > 20 else "")
        classes = f"Classes of both versions: {some}" if both else "The versions have no class in common"
        raise InvalidRequest(field, f"'{mix.id}' has no class '{class_name}'. {classes}")
    return mix, mix.class_names.index(class_name)


def _class_id(request: GenerationRequest, known: list[str]) -> int:
    if request.class_name is not None:
        if request.class_name not in known:
            raise UnknownClass(request.class_name, known)
        return known.index(request.class_name)
    if request.class_id is None:
        raise InvalidRequest("class_name", "give class_name or class_id")
    if not 0 <= request.class_id < len(known):
        raise UnknownClass(str(request.class_id), known)
    return request.class_id
