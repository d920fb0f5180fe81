"""Validation of uploaded data sets. Needs no device."""

import logging
import tempfile
import threading
from functools import partial
from pathlib import Path

from celery import Celery

from core import jobs
from core.datasets import archive, service
from core.db.models import Dataset
from core.errors import ArchiveInvalid, Cancelled, ChecksumMismatch, CoreError, StorageUnavailable
from core.jobs import Claim
from core.storage import file_digest
from worker.context import Context, get_context

logger = logging.getLogger(__name__)


def register(app: Celery) -> None:
    app.task(name="datasets.validate")(validate)


def validate(_id: str) -> None:
    """Validates waiting data sets until none is left; the id is only a hint."""
    context = get_context()
    while not context.stopping.is_set():
        with context.database.session() as session:
            claim = jobs.claim_next(session, Dataset, context.id, context.settings.lease_seconds)
        if claim is None:
            return
        unwanted = threading.Event()
        with context.leases.hold(Dataset, claim, on_end=unwanted.set):
            _validate(context, claim, unwanted)


def _validate(context: Context, claim: Claim, unwanted: threading.Event) -> None:
    with context.database.session() as session:
        row = jobs.guarded(session, Dataset, claim)
        if row is None:
            return
        key, sha256 = row.archive_key, row.archive_sha256
        place = partial(service.example_key, row.tenant_id, row.domain_id, row.id)
    try:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "archive.zip"
            context.store.download(key, path, sha256 or None)
            with path.open("rb") as file:
                sha256 = sha256 or file_digest(file)[0]
                report = archive.validate(file, service.limits(context.settings), lambda: not unwanted.is_set())
                shown = service.store_examples(context.store, place, file, report, service.limits(context.settings))
    except ArchiveInvalid as error:
        with context.database.session() as session:
            service.reject(session, claim, error)
    except Cancelled:
        logger.info("%s is gone, or another worker's", claim.id)
    except ChecksumMismatch:
        detail = "The archive is not the one whose SHA-256 was told. Upload it again."
        with context.database.session() as session:
            service.reject(session, claim, ArchiveInvalid("checksum_mismatch", detail))
    except StorageUnavailable as error:
        logger.warning("%s waits: %s", claim.id, error.detail)
        with context.database.session() as session:
            if (row := jobs.guarded(session, Dataset, claim)) is not None:
                jobs.postpone(session, row)
        context.stopping.wait(1.0)
    except CoreError as error:
        with context.database.session() as session:
            if (row := jobs.guarded(session, Dataset, claim)) is not None:
                jobs.fail(session, row, error)
    else:
        with context.database.session() as session:
            service.succeed(session, claim, report, sha256, shown)
