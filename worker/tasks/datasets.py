"""Validation of uploaded data sets. Needs no device."""

import threading
from functools import partial
from typing import IO, cast

from sqlalchemy.orm import Session

from core.artifact.errors import CoreError
from core.service.datasets import archive, service
from core.service.datasets.digesting import DigestingFile
from core.service.db.models import Dataset
from core.service.errors import ArchiveInvalid
from core.service.jobs import Claim
from worker.context import Context
from worker.runner import Attempt


class Validation(Attempt[Dataset]):
    """Reads every image of an archive, and stores examples of each class."""

    def __init__(self, context: Context, claim: Claim) -> None:
        super().__init__(context, claim)
        self._stopped = threading.Event()

    def load(self, _session: Session, row: Dataset) -> None:
        self.key, self.sha256 = row.archive_key, row.archive_sha256
        self.place = partial(service.example_key, row.tenant_id, row.domain_id, row.id)

    def work(self) -> None:
        limits = service.limits(self.context.settings)
        with self.context.store.open(self.key) as file:
            digesting = DigestingFile(file)
            try:
                self.report = archive.validate(cast(IO[bytes], digesting), limits, self._goes_on)
            except ArchiveInvalid:
                self._check_digest(digesting)  # an archive that was damaged on its way is not its sender's fault
                raise
            self.sha256 = self._check_digest(digesting)
            self.shown = service.store_examples(self.context.store, self.place, file, self.report, limits)

    def publish(self, session: Session) -> None:
        service.succeed(session, self.claim, self.report, self.sha256, self.shown)

    def stop(self) -> None:
        self._stopped.set()

    def on_failure(self, _session: Session, row: Dataset, error: CoreError) -> None:
        if isinstance(error, ArchiveInvalid):
            service.record_rejection(row, error)

    def _check_digest(self, file: DigestingFile) -> str:
        """Returns the archive's SHA-256. Raises ArchiveInvalid if it differs from the sender's."""
        actual = file.digest()
        if self.sha256 and actual != self.sha256:
            detail = "The archive is not the one whose SHA-256 was told. Upload it again."
            raise ArchiveInvalid("checksum_mismatch", detail)
        return actual

    def _goes_on(self) -> bool:
        """A worker that stops does not wait for thousands of images: another one reads them again."""
        return not (self._stopped.is_set() or self.context.stopping.is_set())
