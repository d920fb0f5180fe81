"""Many images of one tenant on a worker with a real engine."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from core.artifact.sampling import SamplingSettings
from core.service.config import Settings
from core.service.db.models import Generation
from tests.core.service.rows import Sent, add_generation, tenant_with_domain
from tests.worker.test_runner import until
from worker.context import Context
from worker.runner import Runner
from worker.tasks.generate import Drawing


@pytest.fixture
def context(tmp_path: Path, migrated_sqlite: Path) -> Iterator[Context]:
    settings = Settings(_env_file=None, data_dir=tmp_path, worker_queues="generate", max_waiting_images=192)  # type: ignore[call-arg]
    shutil.copy(migrated_sqlite, tmp_path / "difffit.db")
    context = Context(settings, Sent(), end_process=lambda: None)
    yield context
    context.stop()
    context.close()


def rows(context: Context, tenant: str) -> list[Generation]:
    with context.database.session() as session:
        return [row for row in session.query(Generation).order_by(Generation.id) if row.tenant_id == tenant]


def test_flood_of_images_does_not_delay_another_tenant(context: Context) -> None:
    """The flood would fill the engine three times, and is far from done when the other tenant's image is."""
    (loud, loud_domain), (quiet, quiet_domain) = (tenant_with_domain(context.database, name) for name in "ab")
    with context.database.session() as session:
        for _ in range(10):
            add_generation(session, loud, loud_domain, count=64, sampling=SamplingSettings(steps=1000))
    runner = Runner(context, {Generation: Drawing})
    context.leases.start()
    runner.start()
    until(lambda: context.gpu.engine.stats()["steps"] > 0)
    with context.database.session() as session:
        add_generation(session, quiet, quiet_domain, sampling=SamplingSettings(steps=2))
    runner.wake(Generation)
    until(lambda: any(row.status == "succeeded" or row.requeues for row in rows(context, quiet.tenant)))
    assert [(row.attempt, row.requeues) for row in rows(context, quiet.tenant)] == [(1, 0)]
    flood = rows(context, loud.tenant)
    assert {row.requeues for row in flood} == {0}
    assert sum(row.count for row in flood if row.status == "running") == 64
    context.stop()
    runner.join()
