"""Jobs of the `generate` queue: generating images, storing them, and writing the result to the database."""

import logging
import queue
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from contextvars import copy_context
from dataclasses import dataclass, field
from functools import partial

from PIL import Image
from sqlalchemy.orm import Session
from torch import Tensor

from core.artifact.errors import ArtifactInvalid, ChecksumMismatch, CoreError, EngineStopped, NotFound
from core.artifact.png import encode_png, image_settings
from core.ml.serving.request import Drawn, ImageRequest
from core.service import adapters, domains, generations
from core.service.db.lookup import require
from core.service.db.models import Adapter, Generation, Tenant
from core.service.db.session import database_now
from core.service.errors import DatabaseUnavailable
from core.service.generations import DrawnImage
from core.service.jobs import Claim
from core.service.storage.errors import StorageUnavailable
from worker import metrics
from worker.context import Context
from worker.runner import Attempt

logger = logging.getLogger(__name__)
_PROGRESS_SECONDS = 0.5
_PROGRESS_JOBS = 16
"""Number of concurrent jobs up to which each job writes its progress every `_PROGRESS_SECONDS`. With more jobs, each
writes less often, so that writing does not take too much of the interpreter's and the database's time."""

_STORING_THREADS = 4
"""Number of images of one generation that are encoded and stored at the same time."""


@dataclass(frozen=True)
class _Job:
    """Inputs of a generation, copied from the database as plain values, so that sampling needs no database session."""

    request: ImageRequest
    class_name: str
    folder: str


@dataclass(frozen=True)
class _File:
    """Stored file of an adapter. As a function, loads it; the engine's cache compares these functions."""

    context: Context = field(compare=False, repr=False)
    adapter_id: str
    digest: str
    key: str

    def __call__(self) -> Mapping[str, Tensor]:
        return self.context.gpu.tensors(self.digest, self.context.store.get(self.key, self.digest))


class Drawing(Attempt[Generation]):
    """Attempt to generate the images of one generation, with previews."""

    drawn: Drawn | None = None
    model_evaluations: int = 0
    """Model evaluations that this attempt has made."""
    files: Sequence[_File] = ()
    """Files of the request's adapters, in the order of `ImageRequest.adapters`."""

    def load(self, session: Session, row: Generation) -> None:
        adapter, mix = (
            require(session, Adapter, "adapter", id) if id else None for id in (row.adapter_id, row.mix_adapter_id)
        )
        self.files = [_File(self.context, each.id, each.sha256, each.object_key) for each in (adapter, mix) if each]
        self.job = _job(self.context, self.claim, session, row, adapter, mix)

    def work(self) -> None:
        try:
            self.drawn = self._draw()
        except BaseException:  # the device must not continue generating if nobody stores the images
            self.stop()
            raise
        self.images = self._store(self.drawn)

    def publish(self, session: Session) -> None:
        assert self.drawn is not None
        generations.succeed(session, self.claim, self.images, self.drawn.model_evaluations, self.drawn.timings)

    def stop(self) -> None:
        with suppress(EngineStopped):  # the engine has ended all requests already
            self.context.gpu.engine.cancel(_engine_id(self.claim))

    def on_error(self, row: Generation) -> None:
        row.model_evaluations = self.model_evaluations

    def on_failure(self, session: Session, _row: Generation, error: CoreError) -> None:
        if not isinstance(error, (ChecksumMismatch, ArtifactInvalid, NotFound)):
            return
        for file in self.files:
            if self.context.gpu.engine.cache.is_broken(file):
                adapters.quarantine(session, file.adapter_id)

    def on_end(self, how: str) -> None:
        metrics.ended(how, self.drawn.timings if self.drawn and how == "succeeded" else None)

    def _draw(self) -> Drawn:
        """Submits the request to the engine, and waits for the images. Writes progress and previews to the database
        meanwhile, and skips them while the database is unavailable. Raises the error of the engine's future."""
        progress, written, written_at = [0.0, 0], 0.0, time.monotonic()
        previews: queue.SimpleQueue[tuple[int, int, Tensor]] = queue.SimpleQueue()
        request = self.job.request
        future = self.context.gpu.engine.submit(
            request,
            *self.files,
            on_step=lambda *step: progress.__setitem__(slice(2), step),
            on_preview=lambda *seen: previews.put(seen),
        )
        while True:
            done, _ = wait([future], timeout=_PROGRESS_SECONDS)
            share, self.model_evaluations = float(progress[0]), int(progress[1])
            with suppress(DatabaseUnavailable):
                self._show(previews)
                is_due = time.monotonic() - written_at >= _progress_seconds(len(self.context.leases.held()))
                if not done and share != written and is_due:
                    with self.context.database.session() as session:
                        generations.progress(session, self.claim, share, self.model_evaluations)
                    written, written_at = share, time.monotonic()
            if done:
                return future.result()

    def _show(self, previews: "queue.SimpleQueue[tuple[int, int, Tensor]]") -> None:
        """Stores the previews that have arrived. Skips a preview that cannot be stored, since it is not part of the
        result."""
        while not previews.empty():
            index, step, pixels = previews.get()
            data = encode_png(Image.fromarray(pixels.numpy()))
            try:
                stored = self.context.store.put(f"{self.job.folder}/preview-{index}-{step}.png", data)
            except StorageUnavailable:
                logger.warning("a preview of %s could not be stored", self.claim.id)
                continue
            with self.context.database.session() as session:
                generations.add_preview(session, self.claim, index, step, stored)

    def _store(self, drawn: Drawn) -> list[DrawnImage]:
        """Encodes and stores the images, several at the same time. If one fails, stores no more, and raises its error
        when none is being stored."""
        calls = [  # in this thread's context, so that the logs name the job
            partial(copy_context().run, self._store_image, index, pixels) for index, pixels in enumerate(drawn.images)
        ]
        with ThreadPoolExecutor(_STORING_THREADS) as threads:
            return list(threads.map(lambda call: call(), calls))

    def _store_image(self, index: int, pixels: Tensor) -> DrawnImage:
        request, seed, image = self.job.request, self.job.request.seeds[index], Image.fromarray(pixels.numpy())
        settings = image_settings(
            request.sampling,
            adapter=request.adapter,
            mix_adapter=request.mix_adapter,
            base=self.context.gpu.base.description.digest,
            class_name=self.job.class_name,
            seed=seed,
        )
        stored = self.context.put(f"{self.job.folder}/{index}.png", encode_png(image, settings))
        return DrawnImage(index, seed, stored, image.width, image.height)


def _progress_seconds(jobs: int) -> float:
    """Returns the seconds between two writes of a job's progress when `jobs` jobs run at once in this worker."""
    return _PROGRESS_SECONDS * max(1.0, jobs / _PROGRESS_JOBS)


def _engine_id(claim: Claim) -> str:
    """Returns the request id for the engine. It includes the attempt's number, so that cancelling an earlier attempt
    cannot cancel this attempt."""
    return f"{claim.id}/{claim.attempt}"


def _job(
    context: Context, claim: Claim, session: Session, row: Generation, adapter: Adapter | None, mix: Adapter | None
) -> _Job:
    tenant = session.get_one(Tenant, row.tenant_id)
    left = None if row.deadline_at is None else (row.deadline_at - database_now(session)).total_seconds()
    request = ImageRequest(
        id=_engine_id(claim),
        tenant=row.tenant_id,
        adapter=adapter.sha256 if adapter else None,
        class_id=row.class_id,
        base_class=_base_class(context, adapter, row.class_id),
        mix_adapter=mix.sha256 if mix else None,
        mix_class=row.mix_class_id or 0,
        seeds=tuple(row.seed + index for index in range(row.count)),
        sampling=row.sampling,
        scale=_scale(context, adapter),
        previews=row.preview_count,
        weight=tenant.weight,
        priority=row.priority,
        deadline=None if left is None else time.monotonic() + left,
    )
    folder = f"{domains.folder(row.tenant_id, row.domain_id)}generations/{row.id}/{claim.attempt}"
    return _Job(request, row.class_name, folder)


def _base_class(context: Context, adapter: Adapter | None, class_id: int) -> int | None:
    """Returns the index of the base's class that has the same name as a class of the adapter, or None."""
    names = [] if adapter is None else adapter.manifest["class_names"]
    return context.gpu.base.description.labels_of(names).get(class_id)


def _scale(context: Context, adapter: Adapter | None) -> int:
    """Returns the ratio of the adapter's image size to the base's image size. Returns 1 for an adapter of another base,
    which is rejected when it is loaded."""
    base = context.gpu.base.description
    if adapter is None or adapter.base_digest != base.digest:
        return 1
    return base.scale_of(adapter.manifest.get("image_size"))
