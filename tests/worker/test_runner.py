"""The runner's threads on real database rows, with scripted attempts."""

import gc
import hashlib
import threading
import time
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch
from sqlalchemy import select
from sqlalchemy.orm import Session

import core.service.generations
from core.artifact.errors import CoreError, DeviceLost
from core.artifact.sampling import SamplingSettings
from core.artifact.training import TrainingSettings
from core.service import jobs
from core.service.config import Settings
from core.service.db.models import Dataset, Finetune, Generation, UsageDay, Worker
from core.service.errors import DatabaseUnavailable
from core.service.storage import FolderStore, StoredObject
from core.service.storage.errors import ObjectNotFound, ScratchTooSmall, StorageUnavailable
from tests import services
from tests.api.client import png, zip_of
from tests.core.ml.serving.small import endless, request
from tests.core.service.rows import Sent, add_dataset, add_finetune, add_generation, tenant_with_domain
from worker.context import Context
from worker.leases import LeaseKeeper
from worker.maintenance import Maintenance
from worker.runner import Attempt, Runner
from worker.tasks.finetune import FinetuneRun
from worker.tasks.generate import Drawing


class Scripted(Attempt[Any]):
    """Attempt that calls the test's `script`, which may raise."""

    script: Callable[["Scripted"], object] = staticmethod(lambda _: None)
    runs: ClassVar[Counter[str]] = Counter()
    stopped = False

    def load(self, _session: Session, row: Any) -> None:
        self.tenant, self.model = row.tenant_id, type(row)

    def work(self) -> None:
        Scripted.runs[self.claim.id] += 1
        Scripted.script(self)

    def publish(self, session: Session) -> None:
        if (row := jobs.guarded(session, self.model, self.claim)) is not None:
            jobs.finish(session, row, jobs.KINDS[self.model].succeeded)

    def stop(self) -> None:
        self.stopped = True


@pytest.fixture
def context(database_url: str, tmp_path: Path) -> Iterator[Context]:
    url = services.as_role(database_url, services.WORKER)
    settings = Settings(_env_file=None, data_dir=tmp_path, database_url=url, worker_threads=8)  # type: ignore[call-arg]
    Scripted.script, Scripted.runs = staticmethod(lambda _: None), Counter()
    context = Context(settings, Sent(), end_process=lambda: None)
    yield context
    context.stop()
    context.close()


@pytest.fixture
def runner(context: Context) -> Runner:
    return Runner(context, dict.fromkeys(jobs.KINDS, Scripted))


def test_one_wake_up_is_enough_for_all_rows_of_a_queue(context: Context, runner: Runner) -> None:
    ids = generations(context, "tenant", 12)
    runner.start()
    until(lambda: all(status(context, Generation, id) == "succeeded" for id in ids))
    more = generations(context, "another", 12)
    runner.wake(Generation)
    until(lambda: all(status(context, Generation, id) == "succeeded" for id in more))
    stop(context, runner)
    assert set(Scripted.runs.values()) == {1}


def test_full_queues_of_one_tenant_do_not_delay_others(context: Context, runner: Runner) -> None:
    """Jobs of the loud tenant never end; those of the quiet one start at once, in each queue."""
    loud, release = [*generations(context, "loud", 20), *datasets(context, "loud", 20)], threading.Event()
    slow = {owner(context, Generation, loud[0]), owner(context, Dataset, loud[-1])}
    Scripted.script = staticmethod(lambda attempt: release.wait() if attempt.tenant in slow else None)
    runner.start()
    until(lambda: len(Scripted.runs) == (context.places(Generation) - 1) + (context.places(Dataset) - 1))
    [drawing], [dataset] = generations(context, "quiet", 1), datasets(context, "quiet", 1)
    runner.wake_all()
    until(lambda: (status(context, Generation, drawing), status(context, Dataset, dataset)) == ("succeeded", "ready"))
    assert sum(Scripted.runs[id] for id in loud) == 1 + 3, "one place of each queue must stay free"
    context.stopping.set()
    release.set()
    stop(context, runner)


def test_unavailable_store_is_not_retried_in_a_hot_loop(context: Context, runner: Runner) -> None:
    [id] = generations(context, "tenant", 1)
    with context.database.session() as session:
        session.get_one(Generation, id).requeues = 8  # so that its delay is longer than any test

    Scripted.script = staticmethod(lambda _: refuse())
    for _ in range(50):
        runner.run_next(Generation)
    assert Scripted.runs[id] == 1
    assert row(context, Generation, id).error["code"] == "storage_unavailable"


def test_defect_fails_the_job_and_the_thread_goes_on(context: Context, runner: Runner) -> None:
    def fail(_: Scripted) -> None:
        raise ZeroDivisionError

    Scripted.script = staticmethod(fail)
    ids = generations(context, "tenant", 3)
    while runner.run_next(Generation):
        pass
    assert {row(context, Generation, id).error_code for id in ids} == {"internal_error"}


def test_result_waits_for_the_database(context: Context, runner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    [id] = generations(context, "tenant", 1)
    publish, tries = Scripted.publish, Counter[str]()

    def publish_late(attempt: Scripted, session: Session) -> None:
        tries["publish"] += 1
        if tries["publish"] < 3:
            raise DatabaseUnavailable()
        publish(attempt, session)

    monkeypatch.setattr(Scripted, "publish", publish_late)
    monkeypatch.setattr("worker.runner._DATABASE_SECONDS", 0.01)
    runner.run_next(Generation)
    assert (status(context, Generation, id), Scripted.runs[id], tries["publish"]) == ("succeeded", 1, 3)


@pytest.mark.parametrize("refused", ["publish", "_load"])
def test_result_that_the_database_always_rejects_fails_with_a_code(
    context: Context, runner: Runner, monkeypatch: pytest.MonkeyPatch, refused: str
) -> None:
    """The database accepts every other statement, like one whose disk is full."""
    [id] = generations(context, "tenant", 1)

    def refuse_this(*_: object) -> None:
        raise DatabaseUnavailable()

    monkeypatch.setattr(Runner if refused == "_load" else Scripted, refused, refuse_this)
    monkeypatch.setattr("worker.runner._DATABASE_SECONDS", 0.001)
    monkeypatch.setattr("core.service.jobs.ladder._FIRST_SECONDS", 0.0)
    for attempt in range(1, context.settings.max_attempts):
        runner.run_next(Generation)
        job = row(context, Generation, id)
        assert (job.status, job.failures, job.error["code"]) == ("queued", attempt, "result_refused")
    runner.run_next(Generation)
    assert (status(context, Generation, id), row(context, Generation, id).error_code) == ("failed", "result_refused")


def test_result_survives_a_long_database_outage(
    context: Context, runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    [id] = generations(context, "tenant", 1)
    session, away = context.database.session, Counter[str]()

    def refuse_all(*arguments: Any) -> Any:
        away["sessions"] += 1
        if away["sessions"] > 60:
            monkeypatch.setattr(context.database, "session", session)
        raise DatabaseUnavailable()

    Scripted.script = staticmethod(lambda _: monkeypatch.setattr(context.database, "session", refuse_all))
    monkeypatch.setattr("worker.runner._DATABASE_SECONDS", 0.001)
    runner.run_next(Generation)
    assert (status(context, Generation, id), row(context, Generation, id).attempt) == ("succeeded", 1)


def test_idle_worker_takes_suspects_one_after_the_other(context: Context, runner: Runner) -> None:
    running, concurrent, lock = Counter[str](), list[int](), threading.Lock()

    def count(_: Scripted) -> None:
        with lock:
            running["now"] += 1
            concurrent.append(running["now"])
        time.sleep(0.05)
        with lock:
            running["now"] -= 1

    Scripted.script = staticmethod(count)
    ids: dict[Any, list[str]] = {Generation: generations(context, "one", 3), Dataset: datasets(context, "two", 3)}
    with context.database.session() as session:
        for model, rows in ids.items():
            for id in rows:
                session.get_one(model, id).suspect = True
    runner.start()
    until(lambda: all(status(context, Generation, id) == "succeeded" for id in ids[Generation]))
    until(lambda: all(status(context, Dataset, id) == "ready" for id in ids[Dataset]))
    stop(context, runner)
    assert concurrent == [1] * 6


def test_finished_images_survive_a_short_storage_outage(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.context._STORE_PAUSES", (0.01, 0.01))
    tries = list[str]()

    def put(store: FolderStore, key: str, data: bytes) -> StoredObject:
        tries.append(key)
        if len(tries) < 3:
            raise StorageUnavailable("refused")
        return real(store, key, data)

    real = FolderStore.put
    monkeypatch.setattr(FolderStore, "put", put)
    assert context.put("images/0.png", b"pixels").size == 6
    monkeypatch.setattr(FolderStore, "put", lambda *_: refuse())
    with pytest.raises(StorageUnavailable):
        context.put("images/1.png", b"pixels")


@pytest.mark.parametrize("reading", ["away", "lost"])
def test_adapter_that_cannot_be_read_back_is_not_trained_again(
    context: Context, monkeypatch: pytest.MonkeyPatch, reading: str
) -> None:
    """For some seconds the same attempt stores the adapter again; then the next attempt on this worker does."""
    monkeypatch.setattr("worker.context._STORE_PAUSES", (0.01, 0.01))
    monkeypatch.setattr("core.service.jobs.ladder._FIRST_SECONDS", 0.0)
    counts, real, train = Counter[str](), FolderStore.get, FinetuneRun._train

    def get(store: FolderStore, key: str, sha256: str | None = None) -> bytes:
        counts["reads"] += 1
        if counts["reads"] <= 5:  # three by the first attempt, two by the second
            raise StorageUnavailable("refused") if reading == "away" else ObjectNotFound()
        return real(store, key, sha256)

    def count(attempt: FinetuneRun, job: Any) -> Any:
        counts["trainings"] += 1
        return train(attempt, job)

    monkeypatch.setattr(FolderStore, "get", get)
    monkeypatch.setattr(FinetuneRun, "_train", count)
    context.start()
    id = finetune(context)
    runner = Runner(context, {**dict.fromkeys(jobs.KINDS, Scripted), Finetune: FinetuneRun})
    runner.run_next(Finetune)
    assert row(context, Finetune, id).error["code"] == "storage_unavailable"
    runner.run_next(Finetune)
    job_row = row(context, Finetune, id)
    assert (job_row.status, job_row.attempt, counts) == ("succeeded", 2, {"trainings": 1, "reads": 6})
    assert context.outcomes == {}
    context.stop()
    context.close()


def finetune(context: Context) -> str:
    """Creates a short fine-tune with four images and returns its id."""
    scope, domain = tenant_with_domain(context.database, "trainer")
    files = {f"{name}/{number}.png": png(40 * number) for name in ("apple", "pear") for number in range(2)}
    stored = context.store.put("archive.zip", zip_of(files))
    with context.database.session() as session:
        id = add_finetune(session, scope, domain, training=TrainingSettings(steps=1, batch_size=2))
        dataset = session.get_one(Dataset, session.get_one(Finetune, id).dataset_id)
        dataset.archive_key, dataset.archive_sha256 = stored.key, stored.sha256
        dataset.classes = [{"id": index, "name": name, "images": 2} for index, name in enumerate(("apple", "pear"))]
        dataset.members = [
            {"file": name, "class_id": int(name.startswith("pear")), "sha256": hashlib.sha256(data).hexdigest()}
            for name, data in files.items()
        ]
        return id


def interrupt() -> None:
    raise KeyboardInterrupt


def refuse() -> None:
    raise StorageUnavailable("refused")


@pytest.mark.parametrize("error", [ValueError("a defect"), CoreError("stopped")])
def test_failing_callback_does_not_cost_other_jobs_their_lease(context: Context, error: Exception) -> None:
    for tenant in ("one", "two"):
        generations(context, tenant, 1)
    keeper = LeaseKeeper(context.database, lease_seconds=60, heartbeat_seconds=0.01)
    with context.database.session() as session:
        first, second = (jobs.claim_next(session, Generation, "wrk_1", 60) for _ in range(2))
    assert first is not None
    assert second is not None
    ended = list[str]()

    def end() -> None:
        ended.append(first.id)
        raise error

    with keeper.hold(Generation, first, end), keeper.hold(Generation, second, lambda: None):
        with context.database.session() as session:
            jobs.request_cancel(session, session.get_one(Generation, first.id))
            before = session.get_one(Generation, second.id).lease_expires_at
        keeper.start()
        until(lambda: len(ended) >= 2)
        until(lambda: row(context, Generation, second.id).lease_expires_at > before)
        keeper.stop()


def test_waiting_lease_keeper_keeps_no_job_that_has_ended(context: Context) -> None:
    class Job:
        ended = threading.Event()

        def end(self) -> None:
            self.ended.set()

    job = Job()
    reference = weakref.ref(job)
    generations(context, "tenant", 1)
    with context.database.session() as session:
        claim = jobs.claim_next(session, Generation, "wrk_1", 60)
        assert claim is not None
        jobs.request_cancel(session, session.get_one(Generation, claim.id))
    keeper = LeaseKeeper(context.database, lease_seconds=60, heartbeat_seconds=0.01)
    keeper.start()
    with keeper.hold(Generation, claim, job.end):
        assert job.ended.wait(60)
    del job
    until(lambda: gc.collect() >= 0 and reference() is None)
    keeper.stop()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_worker_ends_with_the_thread_that_keeps_its_leases(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    ended = threading.Event()
    context.end_process = ended.set
    monkeypatch.setattr(context.leases, "_beat", lambda _: interrupt())
    generations(context, "tenant", 1)
    with context.database.session() as session:
        claim = jobs.claim_next(session, Generation, context.id, 60)
    assert claim is not None
    context.leases.interval = 0.01
    with context.leases.hold(Generation, claim, lambda: None):
        context.leases.start()
        assert ended.wait(60)
    assert context.stopping.is_set()
    assert context.problem == "The thread that renews the leases ended."


def test_worker_whose_device_is_lost_ends_and_reports_why(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    """Replaces the engine's check by one that fails like a dead CUDA context."""
    ended = threading.Event()
    context.end_process = ended.set
    context.start()
    engine = context.gpu.engine
    monkeypatch.setattr(engine.runner, "check", lambda: broken())
    with pytest.raises(DeviceLost):
        engine.check(timeout=60)
    assert ended.wait(60)
    assert context.stopping.is_set()
    until(lambda: not reported(context).healthy)
    assert "illegal memory access" in reported(context).problem
    context.stop()
    context.close()


def test_device_lost_while_a_job_is_loaded_ends_the_worker_and_fails_no_job(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Replaces the measurement of free memory by one that fails like a dead CUDA context."""
    scope, domain = tenant_with_domain(context.database, "tenant")
    with context.database.session() as session:
        ids = [add_finetune(session, scope, domain) for _ in range(5)]
    context.start()
    monkeypatch.setattr("worker.gpu.training_memory", lambda *_: broken())
    training = context.gpu.engine.train(endless(), lambda _: None)
    runner = Runner(context, {Finetune: FinetuneRun, Dataset: Scripted, Generation: Scripted})
    runner.start()
    assert isinstance(training.future.exception(60), DeviceLost)
    runner.join()
    assert [status(context, Finetune, id) for id in ids] == ["queued"] * 5
    assert "illegal memory access" in (context.problem or "")
    context.stop()
    context.close()


def test_job_claimed_by_a_stopping_worker_is_requeued_unstarted(context: Context, runner: Runner) -> None:
    [id] = generations(context, "tenant", 1)
    context.stopping.set()
    runner.run_next(Generation)
    assert (status(context, Generation, id), Scripted.runs[id]) == ("queued", 0)


def test_worker_has_not_evicted_a_deleted_adapter_while_a_request_loads_it(context: Context) -> None:
    go = threading.Event()

    def load() -> Any:
        go.wait()
        raise ObjectNotFound

    context.start()
    future = context.gpu.engine.submit(request("one", adapter="gone"), load)
    context.gpu.engine.check(60)
    evicted_at = []
    for _ in range(2):
        context.evict()
        context.report()
        evicted_at.append(reported(context).evicted_at)
        go.set()
        assert isinstance(future.exception(60), ObjectNotFound)
    assert [moment is None for moment in evicted_at] == [True, False]


def test_worker_with_a_gpu_needs_disk_space_for_kernels(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    """Replaces the device's name, because this machine has no GPU."""
    context.gpu.device = torch.device("cuda")
    monkeypatch.setattr("worker.context.KERNEL_BYTES", 2**60)
    with pytest.raises(ScratchTooSmall, match="DIFFFIT_DEVICE needs"):
        context.start()
    context.stop()


def test_unresponsive_device_is_reported_until_it_responds(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    context.start()
    answers = threading.Event()
    context.settings.device_seconds = 0.01
    monkeypatch.setattr(context.gpu.engine.runner, "check", answers.wait)
    context.watch_device()
    assert not reported(context).healthy
    answers.set()
    context.settings.device_seconds = 60
    context.watch_device()
    assert reported(context).healthy
    context.stop()
    context.close()


def test_nothing_is_reaped_within_a_lease_of_an_outage(
    context: Context, runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lease's holder could not reach the database either; it renews the lease and is not blamed."""
    [id] = generations(context, "tenant", 1)
    with context.database.session() as session:
        assert jobs.claim_next(session, Generation, "wrk_late", -1)
    maintenance = Maintenance(context, runner)

    def away() -> None:
        raise DatabaseUnavailable()

    moment = time.monotonic()
    monkeypatch.setattr("worker.maintenance.time", SimpleNamespace(monotonic=lambda: moment))
    maintenance._try(away)
    moment += context.settings.lease_seconds - 1
    maintenance._try(maintenance._reap)
    assert status(context, Generation, id) == "running"
    moment += 1
    maintenance._try(maintenance._reap)
    assert (status(context, Generation, id), row(context, Generation, id).crashes) == ("queued", 1)


def test_worker_exits_when_its_device_never_responds_again(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    ended, answers = threading.Event(), threading.Event()
    context.end_process = ended.set
    context.start()
    context.settings.device_seconds = 0.01
    monkeypatch.setattr(context.gpu.engine.runner, "check", answers.wait)
    for _ in range(4):
        context.watch_device()
    assert not context.stopping.is_set(), "it may respond again"
    context.watch_device()
    assert ended.wait(60)
    assert context.problem == "Its device did not answer 5 times in a row, 0 s each."
    answers.set()
    context.stop()
    context.close()


def test_problem_of_an_exiting_worker_stays_reported(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its device responded just before the worker died; the last report must not call it healthy."""
    context.start()
    monkeypatch.setattr(context.gpu.engine, "check", lambda _: context.die("lost"))
    context.watch_device()
    assert context.problem == "lost"
    context.stop()
    context.close()
    assert not reported(context).healthy, "the report must be written before the process ends"


def test_generation_survives_a_database_outage(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    """No progress is written during the outage, and the images are generated once."""
    monkeypatch.setattr("worker.tasks.generate._PROGRESS_SECONDS", 0.001)
    tries = Counter[str]()

    def away(*_: object) -> None:
        tries["progress"] += 1
        raise DatabaseUnavailable()

    monkeypatch.setattr("core.service.generations.progress", away)
    context.start()
    [id] = generations(context, "tenant", 1)
    with context.database.session() as session:
        session.get_one(Generation, id).sampling = SamplingSettings(steps=30)
    Runner(context, {**dict.fromkeys(jobs.KINDS, Scripted), Generation: Drawing}).run_next(Generation)
    job_row = row(context, Generation, id)
    assert (job_row.status, job_row.attempt, job_row.error) == ("succeeded", 1, None)
    assert tries["progress"] > 0
    context.stop()
    context.close()


def test_generation_that_cannot_record_a_preview_leaves_the_engine(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.tasks.generate._PROGRESS_SECONDS", 0.001)

    def defect(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("core.service.generations.add_preview", defect)
    scope, domain = tenant_with_domain(context.database, "tenant")
    with context.database.session() as session:
        id = add_generation(session, scope, domain, sampling=SamplingSettings(steps=1000), preview_count=8).id
    context.start()
    runner = Runner(context, {Dataset: Scripted, Finetune: Scripted, Generation: Drawing})
    assert runner.run_next(Generation)
    assert row(context, Generation, id).error["code"] == "internal_error"
    engine = context.gpu.engine
    engine.check(60)  # the loop has read the cancellation by then
    assert engine.stats()["waiting_images"] == 0


def test_cancelled_generation_counts_the_model_evaluations_made(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tenant cancels it as soon as the first of its previews is stored."""
    real = core.service.generations.add_preview
    context.start()
    [id] = generations(context, "tenant", 1)
    with context.database.session() as session:
        generation = session.get_one(Generation, id)
        generation.sampling, generation.preview_count = SamplingSettings(steps=1000, guidance_scale=1.0), 10

    def add_preview(session: Session, claim: jobs.Claim, *preview: Any) -> None:
        real(session, claim, *preview)
        jobs.request_cancel(session, session.get_one(Generation, id))
        context.gpu.engine.cancel(f"{id}/{claim.attempt}")

    monkeypatch.setattr("core.service.generations.add_preview", add_preview)
    Runner(context, {**dict.fromkeys(jobs.KINDS, Scripted), Generation: Drawing}).run_next(Generation)
    with context.database.session() as session:
        [day] = session.scalars(select(UsageDay)).all()
    job_row = row(context, Generation, id)
    assert (job_row.status, day.images) == ("cancelled", 1)
    assert 1000 / 11 <= day.model_evaluations == job_row.model_evaluations < 1000
    context.stop()
    context.close()


def reported(context: Context) -> Any:
    with context.database.session() as session:
        return session.get_one(Worker, context.id)


def broken() -> None:
    raise RuntimeError("CUDA error: an illegal memory access was encountered")


def generations(context: Context, tenant: str, count: int) -> list[str]:
    scope, domain = tenant_with_domain(context.database, tenant)
    with context.database.session() as session:
        return [add_generation(session, scope, domain).id for _ in range(count)]


def datasets(context: Context, tenant: str, count: int) -> list[str]:
    scope, domain = tenant_with_domain(context.database, f"{tenant}'s data sets")
    with context.database.session() as session:
        return [add_dataset(session, scope, domain, status="validating").id for _ in range(count)]


def row(context: Context, model: Any, id: str) -> Any:
    with context.database.session() as session:
        return session.get_one(model, id)


def status(context: Context, model: Any, id: str) -> str:
    return str(row(context, model, id).status)


def owner(context: Context, model: Any, id: str) -> str:
    return str(row(context, model, id).tenant_id)


def stop(context: Context, runner: Runner) -> None:
    context.stopping.set()
    runner.join()


def until(reached: Callable[[], object]) -> None:
    """Polls without a limit of its own; the test run has one."""
    while not reached():
        time.sleep(0.02)
