"""Jobs of the `finetune` queue: training an adapter while the engine also generates images, and publishing it."""

import logging
import queue
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Any

from PIL import Image
from sqlalchemy.orm import Session
from torch import Tensor

from core.artifact.file import Artifact, decode
from core.artifact.manifest import trained_steps
from core.artifact.png import encode_png
from core.artifact.sites import Sites
from core.ml.serving.trainings import Training
from core.ml.tuning.checkpoint import last_readable
from core.ml.tuning.finetune import finetune
from core.ml.tuning.plan import (
    ABOUT_DEFAULTS,
    Checkpoint,
    Encoding,
    Evaluation,
    FinetunePlan,
    Outcome,
    Progress,
    Sample,
    SampleSkipped,
    Started,
    StartingPoint,
)
from core.service import jobs
from core.service.datasets import service as datasets
from core.service.datasets.reading import read_stored
from core.service.db.lookup import require
from core.service.db.models import Adapter, Dataset, Finetune
from core.service.finetunes import recording, service
from core.service.jobs import Claim
from core.service.storage import StoredObject
from worker.context import Context
from worker.runner import Attempt

logger = logging.getLogger(__name__)
_MAX_OUTCOMES = 4
"""Max trained adapters, of a few megabytes each, that a worker keeps in memory until an attempt has stored them."""


@dataclass(frozen=True)
class _Start:
    """Adapter that a fine-tune continues from."""

    key: str
    sha256: str
    class_names: tuple[str, ...]
    steps: int


@dataclass(frozen=True)
class _Job:
    """Inputs of a fine-tune, copied from the database as plain values, so that training needs no database session."""

    plan: FinetunePlan
    zips: list[dict[str, Any]]
    members: list[dict[str, Any]]
    checkpoints: list[tuple[str, str]]
    """Storage key and SHA-256 of each checkpoint, newest first."""
    start: _Start | None
    folder: str


class FinetuneRun(Attempt[Finetune]):
    """Attempt to train one adapter and to store it."""

    def __init__(self, context: Context, claim: Claim) -> None:
        super().__init__(context, claim)
        self.training: Training | None = None
        self.stopped = False

    def load(self, session: Session, row: Finetune) -> None:
        self.job = _load(self.context, session, row)
        recording.record_claim(session, row)

    def work(self) -> None:
        if (start := self.job.start) is not None:
            tensors = self.context.gpu.tensors(start.sha256, self.context.store.get(start.key, start.sha256))
            point = StartingPoint(start.sha256, tensors, start.class_names, start.steps)
            self.job = replace(self.job, plan=replace(self.job.plan, start=point))
        outcomes = self.context.outcomes
        self.outcome: Outcome = outcomes.pop(self.claim.id, None) or self._train(self.job)
        outcomes[self.claim.id] = self.outcome
        for id in list(outcomes)[:-_MAX_OUTCOMES]:  # drops the oldest: other workers may have run these jobs since
            outcomes.pop(id, None)  # another thread may have done so
        self.artifact, self.stored = self._store(self.job, self.outcome)

    def publish(self, session: Session) -> None:
        outcome = self.outcome
        result = recording.Result(
            losses=outcome.losses, adapter_step=outcome.adapter_step, stop_reason=outcome.stop_reason
        )
        recording.publish(session, self.claim, self.artifact, self.stored, result)

    def on_end(self, how: str) -> None:
        if how != "returned":
            self.context.outcomes.pop(self.claim.id, None)

    def stop(self) -> None:
        self.stopped = True
        if self.training is not None:
            self.training.cancelled.set()

    def _train(self, job: _Job) -> Outcome:
        state = self._state(job)
        work = finetune(self.context.gpu.base, job.plan, self._images(job), state, read_ahead=True)
        return self._follow(job, work)

    def _images(self, job: _Job) -> Iterator[tuple[int, Image.Image]]:
        """Yields (class id, image) pairs from the stored zips, without downloading the whole zips."""
        return read_stored(self.context.store, job.zips, job.members, datasets.limits(self.context.settings))

    def _state(self, job: _Job) -> Mapping[str, Tensor] | None:
        """Returns the trainer's state from the newest usable checkpoint, or None to start from scratch. Records in the
        database why newer checkpoints could not be used."""
        description = job.plan.about(self.context.gpu.base.description.digest)
        checkpoint = last_readable(self.context.store.get, job.checkpoints, description, ABOUT_DEFAULTS)
        if checkpoint.reasons:
            reason = " ".join(checkpoint.reasons)
            logger.warning("%s restarts from step %d: %s", self.claim.id, checkpoint.step, reason)
            with self.context.database.session() as session:
                if (row := jobs.guarded(session, Finetune, self.claim)) is not None:
                    recording.record_restart(session, row, checkpoint.step, checkpoint.checkpoint, reason)
        return checkpoint.state

    def _follow(self, job: _Job, work: Any) -> Outcome:
        """Runs the fine-tune in the engine, writes its events to the database as they come, and returns its outcome."""
        events: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.training = self.context.gpu.engine.train(work, events.put)
        if self.stopped:
            self.training.cancelled.set()
        future: Future[Outcome] = self.training.future
        future.add_done_callback(lambda _: events.put(None))
        try:
            while (event := events.get()) is not None:
                if not self._write(job, event):
                    self.training.cancelled.set()
        except BaseException:  # the device must not continue training if nobody writes the results
            self.training.cancelled.set()
            raise
        return future.result()

    def _write(self, job: _Job, event: Any) -> bool:
        """Writes one event to the object store and the database. Returns False when the training should end: because
        this worker has lost the claim on the job, because the job is to be cancelled, or, right after a checkpoint,
        because the worker has to become idle for a suspect (see `core.service.jobs.claims`)."""
        stored = None
        if isinstance(event, Checkpoint):
            key = f"{job.folder}/attempts/{self.claim.attempt}/checkpoint-{event.step}.safetensors"
            stored = self.context.put(key, event.data)
        elif isinstance(event, Sample):
            key = f"{job.folder}/samples/{event.step}.png"
            stored = self.context.put(key, encode_png(event.image))
        with self.context.database.session() as session:
            row = jobs.guarded(session, Finetune, self.claim)
            if row is None:
                return False
            _record(session, row, event, stored)
            if isinstance(event, Checkpoint) and jobs.should_drain(session, self.context.id, self.context.serves):
                return False
            return row.cancel_requested_at is None

    def _store(self, job: _Job, outcome: Outcome) -> tuple[Artifact, StoredObject]:
        """Encodes the adapter file, checks it, and stores it under a storage key that is unique to this attempt.
        Returns the adapter and the stored object; `publish` adds the database row."""
        data = outcome.encoded(job.plan.manifest(self.context.gpu.base.description))
        key = f"{job.folder}/attempts/{self.claim.attempt}/adapter.safetensors"
        return decode(data), self.context.put_checked(key, data)


def _record(session: Session, row: Finetune, event: Any, stored: StoredObject | None) -> None:
    match event:
        case Encoding(done=done):
            jobs.report(session, row, "status", {"status": "running", "encoded_images": done})
        case Started():
            recording.record_start(session, row, event.held_out_loss_base, event.trainable_parameters, event.step)
        case Progress(step=step, loss=loss, gradient_norm=norm, seconds=seconds):
            recording.record_progress(session, row, step=step, loss=loss, gradient_norm=norm, seconds=seconds)
        case Evaluation():
            recording.record_evaluation(session, row, event.step, event.held_out_loss, event.best_step)
        case Checkpoint(step=step) if stored is not None:
            recording.record_checkpoint(session, row, step, stored)
        case Sample(step=step) if stored is not None:
            recording.add_sample(session, row, step, stored)
        case SampleSkipped(step=step):
            jobs.report(session, row, "status", {"status": "running", "skipped_sample": step})


def _load(context: Context, session: Session, row: Finetune) -> _Job:
    dataset = session.get_one(Dataset, row.dataset_id)
    plan = FinetunePlan(
        method=row.method,  # type: ignore[arg-type]
        sites=Sites.from_json(row.sites),
        class_names=tuple(label["name"] for label in dataset.classes),
        dataset_digest=dataset.digest or "",
        training=replace(row.training, micro_batch_size=context.settings.micro_batch_size),
        image_size=row.image_size,
        train_class_table=row.train_class_table,
        memory_bytes=context.gpu.training_memory_bytes,
        preset=row.preset,
    )
    return _Job(
        plan=plan,
        zips=dataset.zips,
        members=dataset.members,
        checkpoints=recording.checkpoints(row),
        start=_start(session, row.from_adapter_id),
        folder=service.folder(row),
    )


def _start(session: Session, adapter_id: str | None) -> _Start | None:
    if adapter_id is None:
        return None
    adapter = require(session, Adapter, "adapter", adapter_id)
    steps = trained_steps(adapter.manifest.get("training", {}))
    return _Start(adapter.object_key, adapter.sha256, tuple(adapter.class_names), steps)
