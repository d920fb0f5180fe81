"""Delayed requeues, blame after a crash, and the number of places for a tenant."""

import datetime
from collections import Counter
from typing import Any

import pytest
from sqlalchemy import select

from core.artifact.errors import CoreError, DeviceLost, EngineStopped
from core.service import fleet, jobs
from core.service.db.models import Dataset, Finetune, FinetuneEvent, Generation
from core.service.db.session import Database, database_now
from core.service.errors import DatabaseUnavailable
from core.service.finetunes import recording
from core.service.jobs import Claim
from core.service.storage import StoredObject
from core.service.storage.errors import StorageUnavailable
from tests.core.service.rows import Sent, add_dataset, add_finetune, add_generation, tenant_with_domain

LOST = -1.0
"""Seconds of a lease that has already expired."""


def claim(database: Database, model: Any, worker: str = "wrk_1", lease: float = 60, **options: Any) -> Claim | None:
    with database.session() as session:
        return jobs.claim_next(session, model, worker, lease, **options)


def claimed(database: Database, model: Any, worker: str = "wrk_1", lease: float = 60) -> Claim:
    job = claim(database, model, worker, lease)
    assert job is not None
    return job


def reap(database: Database) -> list[str]:
    """Reaps every kind of job as a worker's maintenance does, and returns the ids that ended."""
    with database.session() as session:
        return [job.id for model in jobs.KINDS for job in jobs.reap(session, Sent(), model, max_attempts=3)]


def settle(database: Database, model: Any, claim: Claim, error: Exception) -> str:
    with database.session() as session:
        row = jobs.guarded(session, model, claim)
        assert row is not None
        return jobs.settle(session, Sent(), row, error, max_attempts=3)


def row(database: Database, model: Any, id: str) -> Any:
    with database.session() as session:
        return session.get_one(model, id)


def change(database: Database, model: Any, id: str, **values: Any) -> None:
    with database.session() as session:
        job = session.get_one(model, id)
        for name, value in values.items():
            setattr(job, name, value)


def finish(database: Database, model: Any, id: str) -> None:
    with database.session() as session:
        jobs.finish(session, session.get_one(model, id), "succeeded")


def generations(database: Database, count: int, tenant: str = "tenant") -> list[str]:
    scope, domain = tenant_with_domain(database, tenant)
    with database.session() as session:
        return [add_generation(session, scope, domain).id for _ in range(count)]


def test_delay_doubles_from_a_second_to_five_minutes() -> None:
    assert [jobs.backoff_seconds(n, lambda: 0.5) for n in (1, 2, 3, 9, 10, 10_000)] == [1, 2, 4, 256, 300, 300]
    assert (jobs.backoff_seconds(10, lambda: 0.0), jobs.backoff_seconds(10, lambda: 1.0)) == (225, 375)


@pytest.mark.parametrize("error", [StorageUnavailable("refused"), DatabaseUnavailable()])
def test_delayed_row_is_claimed_only_after_its_delay_and_shows_its_reason(database: Database, error: CoreError) -> None:
    [id] = generations(database, 1)
    change(database, Generation, id, requeues=7)  # the delays are longer than the test
    for times in (8, 9, 10):
        assert settle(database, Generation, claimed(database, Generation), error) == "returned"
        job = row(database, Generation, id)
        assert (job.status, job.requeues, job.failures) == ("queued", times, 0)
        assert job.error == {"code": error.code, "detail": error.detail}
        assert claim(database, Generation) is None
        with database.session() as session:
            now = database_now(session)
        assert job.not_before - now > datetime.timedelta(seconds=0.5 * jobs.backoff_seconds(times, lambda: 0.0))
        change(database, Generation, id, not_before=now)


def test_stopping_worker_requeues_without_a_delay(database: Database) -> None:
    [id] = generations(database, 1)
    assert settle(database, Generation, claimed(database, Generation), EngineStopped()) == "returned"
    assert claimed(database, Generation).id == id


def test_repeated_waits_are_one_event_and_a_checkpoint_resets_the_delay(database: Database) -> None:
    scope, domain = tenant_with_domain(database)
    with database.session() as session:
        id = add_finetune(session, scope, domain)
    for _ in range(5):
        held = claimed(database, Finetune)
        with database.session() as session:
            recording.record_claim(session, session.get_one(Finetune, id))
        settle(database, Finetune, held, StorageUnavailable("refused"))
        change(database, Finetune, id, not_before=None)
    assert [(event.type, event.data.get("code")) for event in events(database, id)] == [
        ("status", None),  # queued
        ("status", None),  # running
        ("error", "storage_unavailable"),
    ]
    claimed(database, Finetune)
    with database.session() as session:
        recording.record_checkpoint(session, session.get_one(Finetune, id), 50, StoredObject("k", "0" * 64, 1))
    assert row(database, Finetune, id).requeues == 0


def events(database: Database, id: str) -> list[FinetuneEvent]:
    with database.session() as session:
        query = select(FinetuneEvent).where(FinetuneEvent.finetune_id == id).order_by(FinetuneEvent.id)
        return list(session.execute(query).scalars())


def test_rows_lost_together_count_no_crash_and_become_suspects(database: Database) -> None:
    scope, domain = tenant_with_domain(database)
    with database.session() as session:
        finetune = add_finetune(session, scope, domain)
        dataset = add_dataset(session, scope, domain, status="validating").id
        drawing = add_generation(session, scope, domain).id
    ids = {Finetune: finetune, Dataset: dataset, Generation: drawing}
    for model in ids:
        claimed(database, model, lease=LOST)
    assert reap(database) == []
    for model, id in ids.items():
        job = row(database, model, id)
        assert (job.suspect, job.crashes, job.failures, job.error_code) == (True, 0, 0, None)


def test_job_that_ever_ran_next_to_others_counts_no_crash(database: Database) -> None:
    """The other job has ended, but may be the reason for the worker's death."""
    first, second = generations(database, 2)
    claimed(database, Generation, lease=LOST)
    assert claimed(database, Generation).id == second
    finish(database, Generation, second)
    reap(database)
    job = row(database, Generation, first)
    assert (job.suspect, job.crashes) == (True, 0)


def test_job_that_kills_its_worker_alone_ends_with_its_own_code(database: Database) -> None:
    [id] = generations(database, 1)
    for crash in (1, 2, 3):
        claimed(database, Generation, f"wrk_{crash}", lease=LOST)
        assert reap(database) == ([id] if crash == 3 else [])
    job = row(database, Generation, id)
    assert (job.status, job.error_code, job.crashes) == ("failed", "crashed_worker", 3)


def test_job_that_loses_the_device_alone_twice_fails(database: Database) -> None:
    [id] = generations(database, 1)
    first = settle(database, Generation, claimed(database, Generation), DeviceLost("illegal memory access"))
    second = settle(database, Generation, claimed(database, Generation, "wrk_2"), DeviceLost("illegal memory access"))
    assert (first, second) == ("returned", "failed")
    assert row(database, Generation, id).error_code == "device_crashed"


def test_lost_device_counts_no_crash_for_concurrent_jobs(database: Database) -> None:
    ids = generations(database, 3)
    held = [claimed(database, Generation) for _ in ids]
    for job in held:
        assert settle(database, Generation, job, DeviceLost("illegal memory access")) == "returned"
    rows = [row(database, Generation, id) for id in ids]
    assert [(job.status, job.suspect, job.crashes, job.failures) for job in rows] == [("queued", True, 0, 0)] * 3


def test_suspect_runs_alone(database: Database) -> None:
    first, second, third = generations(database, 3)
    change(database, Generation, second, suspect=True)
    suspect = claimed(database, Generation)
    assert suspect.id == second, "the suspect must be first in line"
    assert claim(database, Generation) is None
    assert claim(database, Dataset) is None
    assert claimed(database, Generation, "wrk_0").id == first, "other workers must continue"
    change(database, Generation, second, suspect=False)  # like a checkpoint
    assert claimed(database, Generation).id == third


def test_worker_drains_for_a_suspect_of_any_of_its_queues(database: Database) -> None:
    scope, domain = tenant_with_domain(database)
    with database.session() as session:
        running = add_generation(session, scope, domain).id
        add_generation(session, scope, domain)
    claimed(database, Generation)
    with database.session() as session:
        suspect = add_finetune(session, scope, domain, suspect=True)
    assert claim(database, Finetune) is None, "the worker has another job"
    assert claim(database, Generation) is None, "the worker must take no other job"
    with database.session() as session:
        assert jobs.should_drain(session, "wrk_1")
        assert not jobs.should_drain(session, "wrk_1", [Generation]), "no suspect in the worker's queues"
    finish(database, Generation, running)
    assert claim(database, Generation) is None, "the worker must stay free for the suspect"
    assert claimed(database, Finetune).id == suspect


def test_one_suspect_drains_only_the_newest_worker(database: Database) -> None:
    generations(database, 3)
    for worker in ("wrk_1", "wrk_2", "wrk_3"):
        with database.session() as session:
            report = {"queues": ["generate"], "device": "cpu", "resident": [], "healthy": worker != "wrk_3"}
            fleet.report_worker(session, worker, "host", 1, report)
    for worker in ("wrk_1", "wrk_2"):
        claimed(database, Generation, worker)
    [suspect] = generations(database, 1, "another")
    change(database, Generation, suspect, suspect=True)
    assert claim(database, Generation, "wrk_2") is None, "the newest healthy one"
    assert claimed(database, Generation, "wrk_1").id != suspect


def test_suspect_drains_a_worker_of_its_own_queue(database: Database) -> None:
    scope, domain = tenant_with_domain(database)
    generations(database, 2, "another")
    for worker, queues in {"wrk_1": ["finetune", "generate"], "wrk_2": ["generate"], "wrk_3": ["generate"]}.items():
        with database.session() as session:
            fleet.report_worker(session, worker, "host", 1, {"queues": queues, "device": "cpu", "resident": []})
    claimed(database, Generation, "wrk_1")
    with database.session() as session:
        suspect = add_finetune(session, scope, domain, suspect=True)
        assert jobs.should_drain(session, "wrk_1", [Finetune, Generation])
    assert claim(database, Generation, "wrk_1", serves=[Finetune, Generation]) is None
    assert claim(database, Generation, "wrk_3", serves=[Generation]) is not None, "it serves another queue"
    with database.session() as session:
        session.get_one(Finetune, suspect).suspect = False
    assert claim(database, Finetune, "wrk_1", serves=[Finetune, Generation]) is not None


def test_delayed_suspect_blocks_no_other_job(database: Database) -> None:
    first, second = generations(database, 2)
    with database.session() as session:
        later = database_now(session) + datetime.timedelta(hours=1)
    change(database, Generation, first, suspect=True, not_before=later)
    assert claimed(database, Generation).id == second


def test_suspects_without_a_lone_crash_run_first(database: Database) -> None:
    poison, innocent = generations(database, 2)
    change(database, Generation, poison, suspect=True, crashes=1)
    change(database, Generation, innocent, suspect=True)
    assert claimed(database, Generation).id == innocent


def test_tenants_leave_images_to_others_on_every_worker(database: Database) -> None:
    """Each tenant may take a generation while it holds less than half as many images as are free."""
    for tenant in ("loud", "second", "third"):
        for id in generations(database, 20, tenant):
            change(database, Generation, id, count=8)
    taken = Counter[str]()
    while job := claim(database, Generation, most_images=100):
        with database.session() as session:
            taken[session.get_one(Generation, job.id).tenant_id] += 8
    assert sorted(taken.values()) == [24, 24, 24]
    assert claim(database, Generation, "wrk_2", most_images=100) is not None
    small, large = generations(database, 2, "quiet")
    change(database, Generation, large, count=29, priority=1)
    job = claim(database, Generation, most_images=100)
    assert job is not None
    assert job.id == small, "only 28 images are free"


def test_tenant_alone_gets_more_than_a_third_of_the_images(database: Database) -> None:
    for id in generations(database, 60, "alone"):
        change(database, Generation, id, count=2)
    taken = 0
    while claim(database, Generation, most_images=100):
        taken += 2
    assert taken == 34


def test_generation_larger_than_the_limit_is_claimed_alone(database: Database) -> None:
    first, second = generations(database, 2)
    for id in (first, second):
        change(database, Generation, id, count=64)
    assert claim(database, Generation, most_images=50) is not None
    assert claim(database, Generation, most_images=50) is None


def test_tenant_leaves_a_slot_to_others_on_every_worker(database: Database) -> None:
    generations(database, 4, "loud")
    assert all(claim(database, Generation, most=2) for _ in range(2))
    assert claim(database, Generation, most=2) is None
    assert claim(database, Generation, "wrk_2", most=2) is not None
    [quiet] = generations(database, 1, "quiet")
    job = claim(database, Generation, most=2)
    assert job is not None
    assert job.id == quiet
