"""The device of a worker."""

from types import SimpleNamespace

import pytest
import torch

from core.ml.serving.forwards import step_rows
from core.service.config import Settings
from core.service.db.models import Dataset, Finetune, Generation
from tests.core.service.rows import Sent
from worker.context import Context
from worker.gpu import Gpu
from worker.tasks.generate import _progress_seconds

CASES = [("cpu", 32, 8), ("cpu", 4, 4), ("cpu", None, 8), ("cuda", 32, 32), ("mps", None, 32)]


@pytest.mark.parametrize(("device", "configured", "rows"), CASES)
def test_batch_rows_of_a_cpu_step_are_limited(device: str, configured: int | None, rows: int) -> None:
    assert step_rows(torch.device(device), configured) == rows


@pytest.mark.parametrize(("gib", "rows"), [(79, 128), (39.5, 128), (22, 64), (15.8, 32), (8, 32)])
def test_batch_rows_of_a_step_depend_on_gpu_memory(monkeypatch: pytest.MonkeyPatch, gib: float, rows: int) -> None:
    """Replaces the GPU's properties, because this machine has none."""
    properties = SimpleNamespace(total_memory=int(gib * 2**30))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: properties)
    assert step_rows(torch.device("cuda")) == rows


@pytest.mark.parametrize(("configured", "slots", "rows"), [(None, 1024, 8), (4, 1024, 4), (None, 2, 2)])
def test_step_has_at_most_as_many_batch_rows_as_table_slots(configured: int | None, slots: int, rows: int) -> None:
    gpu = Gpu(settings(max_batch_rows=configured, adapter_slots=slots))
    gpu.engine.stop()
    assert (gpu.max_rows, gpu.engine.generations.scheduler.max_rows) == (rows, rows)


@pytest.mark.parametrize(
    ("threads", "queues", "rows", "places"),
    [
        (None, "generate", 8, 16),
        (None, "datasets,finetune,generate", 128, 128),
        (16, "datasets,finetune,generate", 128, 4),
        (8, "generate", 128, 8),
        (2, "datasets,finetune,generate", 128, 2),
    ],
)
def test_concurrent_generations_follow_the_batch_unless_threads_are_set(
    threads: int | None, queues: str, rows: int, places: int
) -> None:
    context = Context(settings(worker_threads=threads, worker_queues=queues), Sent())
    context.gpu = SimpleNamespace(max_rows=rows)  # type: ignore[assignment]
    assert context.places(Generation) == places
    assert (context.places(Dataset), context.places(Finetune)) == (4, 8)


@pytest.mark.parametrize("jobs", [1, 16, 17, 128, 1000])
def test_progress_writes_do_not_grow_with_the_number_of_jobs(jobs: int) -> None:
    assert jobs / _progress_seconds(jobs) <= 16 / _progress_seconds(16)
    assert _progress_seconds(jobs) >= 0.5


def settings(**values: object) -> Settings:
    return Settings(_env_file=None, device="cpu", **values)  # type: ignore[arg-type,call-arg]
