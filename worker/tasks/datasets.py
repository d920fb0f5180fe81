"""Jobs of the `datasets` queue: validating uploaded data sets, which needs no device."""

import threading

from sqlalchemy.orm import Session

from core.artifact.errors import CoreError
from core.ml.bundled import sample_domain_folder
from core.service.datasets import samples, validation
from core.service.datasets.service import limits
from core.service.db.models import Dataset
from core.service.errors import ArchiveInvalid
from core.service.jobs import Claim
from worker.context import Context
from worker.runner import Attempt


class Validation(Attempt[Dataset]):
    """Attempt to validate the zip archive of one data set."""

    def __init__(self, context: Context, claim: Claim) -> None:
        super().__init__(context, claim)
        self._stopped = threading.Event()

    def load(self, _session: Session, row: Dataset) -> None:
        self.archive = validation.StoredArchive.of(row)

    def work(self) -> None:
        context = self.context
        bounds = limits(context.settings)
        self.stored_bytes = 0
        if samples.is_sample(self.archive.key):
            self.stored_bytes = samples.store_zip(context.store, self.archive.key, sample_domain_folder()).size
        self.validated = validation.validate_archive(context.store, self.archive, bounds, self._goes_on)

    def publish(self, session: Session) -> None:
        if validation.succeed(session, self.claim, self.validated) and self.stored_bytes:
            samples.record_size(session, self.claim.id, self.stored_bytes)

    def stop(self) -> None:
        self._stopped.set()

    def on_failure(self, _session: Session, row: Dataset, error: CoreError) -> None:
        if isinstance(error, ArchiveInvalid):
            validation.record_rejection(row, error)

    def _goes_on(self) -> bool:
        """Returns whether validation should continue. It ends early when the worker stops or the job is cancelled,
        since reading thousands of images takes long; another worker then starts again."""
        return not (self._stopped.is_set() or self.context.stopping.is_set())
