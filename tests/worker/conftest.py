import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from core.service.config import Settings
from tests.core.service.rows import Sent
from worker.context import Context


@pytest.fixture
def context(tmp_path: Path, migrated_sqlite: Path) -> Iterator[Context]:
    settings = Settings(_env_file=None, data_dir=tmp_path, worker_queues="generate")  # type: ignore[call-arg]
    shutil.copy(migrated_sqlite, tmp_path / "difffit.db")
    context = Context(settings, Sent(), end_process=lambda: None)
    yield context
    context.stop()
    context.close()
