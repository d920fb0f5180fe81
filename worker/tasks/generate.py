"""Generations: claim, draw, store, write."""

import json
import logging
import queue
import time
from collections.abc import Callable, Mapping
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass
from typing import Any, cast

from celery import Celery
from PIL import Image
from torch import Tensor

from core import jobs
from core.adapters import service as adapters
from core.db.models import Adapter, Generation, Tenant
from core.db.session import database_now
from core.diffusion.timesteps import SamplerName
from core.domains import service as domains
from core.engine.request import Drawn, ImageRequest
from core.errors import (
    ArtifactInvalid,
    Cancelled,
    ChecksumMismatch,
    CoreError,
    EngineStopped,
    NotFound,
    QueueFull,
    StorageFull,
    StorageUnavailable,
)
from core.generations import service
from core.generations.service import DrawnImage
from core.jobs import Claim
from worker import metrics
from worker.context import Context, get_context
from worker.images import encode_png

logger = logging.getLogger(__name__)
_PROGRESS_SECONDS = 0.5


@dataclass(frozen=True)
class _Job:
    """What a generation needs, as plain values: no session is held while it is drawn."""

    request: ImageRequest
    adapter_id: str | None
    adapter_key: str
    folder: str
    settings: dict[str, Any]
    """Written into the images."""


def register(app: Celery) -> None:
    app.task(name="generate.run")(run)


def run(_id: str) -> None:
    """Draws waiting generations until none is left; the id is only a hint."""
    context = get_context()
    while not context.stopping.is_set():
        with context.database.session() as session:
            claim = jobs.claim_next(session, Generation, context.id, context.settings.lease_seconds)
        if claim is None:
            return
        with context.leases.hold(Generation, claim, _canceller(context, claim)):
            _run(context, claim)


def _canceller(context: Context, claim: Claim) -> Callable[[], None]:
    return lambda: context.gpu.engine.cancel(_engine_id(claim))


def _engine_id(claim: Claim) -> str:
    """Of this attempt alone: the end of an earlier one in this process must not reach it."""
    return f"{claim.id}/{claim.attempt}"


def _run(context: Context, claim: Claim) -> None:
    job = _load(context, claim)
    if job is None:
        return
    try:
        drawn = _draw(context, claim, job)
        images = _store(context, job, drawn)
    except (EngineStopped, QueueFull, StorageUnavailable) as error:
        _hand_back(context, claim, error)
        metrics.ended("returned")
    except Cancelled:
        with context.database.session() as session:
            service.end(session, claim, "cancelled")
        metrics.ended("cancelled")
    except CoreError as error:
        _fail(context, claim, job, error)
        metrics.ended("failed")
    except Exception:  # a defect here must not leave the row to be tried for ever
        logger.exception("%s failed", claim.id)
        _fail(context, claim, job, CoreError("Drawing failed on our side. Try again."))
        metrics.ended("failed")
    else:
        with context.database.session() as session:
            service.succeed(session, claim, images, drawn.row_steps, drawn.timings)
        metrics.ended("succeeded", drawn.timings)


def _load(context: Context, claim: Claim) -> _Job | None:
    with context.database.session() as session:
        row = jobs.guarded(session, Generation, claim)
        if row is None:
            return None
        adapter = session.get(Adapter, row.adapter_id) if row.adapter_id else None
        tenant = session.get_one(Tenant, row.tenant_id)
        left = None if row.deadline_at is None else (row.deadline_at - database_now(session)).total_seconds()
        request = ImageRequest(
            id=_engine_id(claim),
            tenant=row.tenant_id,
            adapter=adapter.sha256 if adapter else None,
            class_id=row.class_id,
            seeds=tuple(row.seed + index for index in range(row.count)),
            steps=row.steps,
            guidance_scale=row.guidance_scale,
            guidance_interval=(row.guidance_from, row.guidance_to),
            sampler=cast(SamplerName, row.sampler),
            eta=row.eta,
            scale=_scale(context, adapter),
            previews=row.preview_count,
            weight=tenant.weight,
            priority=row.priority,
            deadline=None if left is None else time.monotonic() + left,
        )
        settings = {
            "adapter": request.adapter or "base",
            "base": context.gpu.base.description.digest,
            "class": row.class_name,
            "steps": row.steps,
            "guidance_scale": row.guidance_scale,
            "guidance_interval": [row.guidance_from, row.guidance_to],
            "sampler": row.sampler,
            "eta": row.eta,
        }
        folder = f"{domains.folder(row.tenant_id, row.domain_id)}generations/{row.id}/{claim.attempt}"
        return _Job(request, row.adapter_id, adapter.object_key if adapter else "", folder, settings)


def _scale(context: Context, adapter: Adapter | None) -> int:
    """Of an adapter that was made for another base, loading tells."""
    base = context.gpu.base.description
    if adapter is None or adapter.base_digest != base.digest:
        return 1
    return base.scale_of(adapter.manifest.get("image_size"))


def _draw(context: Context, claim: Claim, job: _Job) -> Drawn:
    """Submits and waits; writes progress and previews meanwhile. Raises what the engine's future holds."""
    share, told = [0.0], 0.0
    previews: queue.SimpleQueue[tuple[int, int, Tensor]] = queue.SimpleQueue()
    future = context.gpu.engine.submit(
        job.request,
        lambda: _load_adapter(context, job),
        on_step=lambda done: share.__setitem__(0, done),
        on_preview=lambda *seen: previews.put(seen),
    )
    while True:
        try:
            drawn = future.result(timeout=_PROGRESS_SECONDS)
        except FutureTimeout:
            if future.done():
                raise  # a timeout of the work itself, not of the wait
            drawn = None
        _show(context, claim, job, previews)
        if drawn is not None:
            return drawn
        if share[0] != told:
            told = share[0]
            with context.database.session() as session:
                service.progress(session, claim, told)


def _show(context: Context, claim: Claim, job: _Job, previews: "queue.SimpleQueue[tuple[int, int, Tensor]]") -> None:
    """Stores the previews that have come. One that cannot be stored is left out: it is a courtesy."""
    while not previews.empty():
        index, step, pixels = previews.get()
        data = encode_png(Image.fromarray(pixels.numpy()), {})
        try:
            stored = context.store.put(f"{job.folder}/preview-{index}-{step}.png", data)
        except StorageUnavailable:
            logger.warning("a preview of %s could not be stored", claim.id)
            continue
        with context.database.session() as session:
            service.add_preview(session, claim, index, step, stored)


def _load_adapter(context: Context, job: _Job) -> Mapping[str, Tensor]:
    digest = job.request.adapter or ""
    return context.gpu.tensors(digest, context.store.get(job.adapter_key, digest))


def _store(context: Context, job: _Job, drawn: Drawn) -> list[DrawnImage]:
    images = []
    for index, (seed, pixels) in enumerate(zip(job.request.seeds, drawn.images, strict=True)):
        image = Image.fromarray(pixels.numpy())
        data = encode_png(image, {"difffit": json.dumps({**job.settings, "seed": seed}, sort_keys=True)})
        stored = context.store.put(f"{job.folder}/{index}.png", data)
        images.append(DrawnImage(index, seed, stored, image.width, image.height))
    return images


def _hand_back(context: Context, claim: Claim, error: CoreError) -> None:
    """The row waits again: this worker stops or is full, or the store does not answer."""
    logger.info("%s goes back: %s", claim.id, error.detail)
    with context.database.session() as session:
        row = jobs.guarded(session, Generation, claim)
        if row is None:
            return
        if isinstance(error, EngineStopped):
            jobs.release(session, context.dispatcher, row)
        elif isinstance(error, StorageFull):
            jobs.set_back(session, row, error, context.settings.max_attempts)
        else:
            jobs.postpone(session, row)
    context.stopping.wait(1.0)


def _fail(context: Context, claim: Claim, job: _Job, error: CoreError) -> None:
    with context.database.session() as session:
        if job.adapter_id is not None and isinstance(error, (ChecksumMismatch, ArtifactInvalid, NotFound)):
            adapters.quarantine(session, job.adapter_id)
        service.end(session, claim, "failed", error)
