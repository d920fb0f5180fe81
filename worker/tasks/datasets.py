"""Jobs of the `datasets` queue: fetching imported data sets, and validating all data sets, which needs no device."""

import threading
from dataclasses import asdict, replace

from sqlalchemy.orm import Session

from core.artifact.errors import CoreError
from core.ml.bundled import sample_domain_folder
from core.service.datasets import imports, removal, samples, validation
from core.service.datasets.service import folder, limits
from core.service.db.models import Dataset
from core.service.errors import ArchiveInvalid
from core.service.jobs import Claim
from worker.context import Context
from worker.runner import Attempt


class Validation(Attempt[Dataset]):
    """Attempt to validate the zip archive of one data set. The zip of an import is made first, from fetched images."""

    def __init__(self, context: Context, claim: Claim) -> None:
        super().__init__(context, claim)
        self._stopped = threading.Event()
        self._import: imports.Import | None = None

    def load(self, session: Session, row: Dataset) -> None:
        self.archive = validation.StoredArchive.of(row)
        if row.to_fetch is not None:
            imports.release(session, row)  # what an earlier attempt has reserved
            prefix = folder(row.tenant_id, row.domain_id, row.id)
            self._import = imports.Import(self.context, self.claim, row.tenant_id, prefix, row.to_fetch, self._goes_on)

    def work(self) -> None:
        self.stored_bytes = 0
        if self._import is not None:
            self._work_on_import(self._import)
            return
        if samples.is_sample(self.archive.key):
            store = self.context.store
            self.stored_bytes = samples.store_zip(store, self.archive.key, sample_domain_folder()).size
        self.validated = self._validated()

    def publish(self, session: Session) -> None:
        if not validation.succeed(session, self.claim, self.validated):
            return
        if self._import is not None:
            imports.record_key(session, self.claim.id, self.archive.key)
        elif self.stored_bytes:
            samples.record_size(session, self.claim.id, self.stored_bytes)

    def stop(self) -> None:
        self._stopped.set()

    def on_failure(self, session: Session, row: Dataset, error: CoreError) -> None:
        if isinstance(error, ArchiveInvalid):
            validation.record_rejection(row, error)
        if self._import is not None:
            imports.release(session, row)
        elif row.sources:
            removal.release(session, row)

    def _work_on_import(self, fetching: imports.Import) -> None:
        """Stores the zip of the fetched images, and validates it. Adds the files that could not be fetched to the
        report or the error. Deletes the zip unless it can be used."""
        stored = fetching.store_zip()
        self.archive = replace(self.archive, key=stored.key, sha256=stored.sha256)
        try:
            self.validated = self._validated()
        except ArchiveInvalid as error:
            error.errors[:0] = map(asdict, fetching.failures)
            fetching.discard()
            raise
        except BaseException:
            fetching.discard()
            raise
        self.validated.report.rejected[:0] = fetching.failures

    def _validated(self) -> validation.Validated:
        context = self.context
        return validation.validate_archive(context.store, self.archive, limits(context.settings), self._goes_on)

    def _goes_on(self) -> bool:
        """Returns whether validation should continue. It ends early when the worker stops or the job is cancelled,
        since reading thousands of images takes long; another worker then starts again."""
        return not (self._stopped.is_set() or self.context.stopping.is_set())
