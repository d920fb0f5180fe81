"""Jobs: claims, fences, leases, the reaper, and messages sent after the commit."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import select

from core.artifact.errors import Cancelled, EngineStopped
from core.ml.errors import TrainingDiverged
from core.service import domains, generations, jobs, tenants
from core.service.db.models import Generation, UsageDay
from core.service.db.session import Database
from core.service.jobs import Claim
from core.service.quotas import images_today
from core.service.storage import StoredObject
from core.service.storage.errors import StorageFull
from core.service.tenancy import SYSTEM
from tests.core.service.rows import Sent, add_generation, claim, tenant_with_domain


def queue(database: Database, count: int = 1, name: str = "tenant", **values: object) -> list[str]:
    scope, domain_id = tenant_with_domain(database, name)
    with database.session() as session:
        return [add_generation(session, scope, domain_id, **values).id for _ in range(count)]


def no_delay(database: Database, id: str) -> None:
    """Makes a requeued generation due immediately."""
    with database.session() as session:
        session.get_one(Generation, id).not_before = None


def row(database: Database, id: str) -> Generation:
    with database.session() as session:
        return session.get_one(Generation, id)


def test_counted_requeue_reports_why_and_fails_at_the_last_attempt(database: Database) -> None:
    [id] = queue(database)
    for attempt in (1, 2, 3):
        no_delay(database, id)
        claimed = claim(database)
        assert row(database, id).error_code is None, "another attempt remains"
        with database.session() as session:
            job = jobs.guarded(session, Generation, claimed)
            assert job is not None
            jobs.requeue_counted(session, job, StorageFull("No space left on device"), max_attempts=3)
        job = row(database, id)
        assert job.status == ("queued" if attempt < 3 else "failed")
        assert (job.error_code, "is full" in str(job.error_detail)) == ("storage_full", True)


def test_many_workers_claim_every_row_once(database: Database) -> None:
    ids = queue(database, 40)

    def work(worker: int) -> list[str]:
        taken: list[str] = []
        while True:
            with database.session() as session:
                claimed = jobs.claim_next(session, Generation, f"w{worker}", 60)
            if claimed is None:
                return taken
            taken.append(claimed.id)

    with ThreadPoolExecutor(8) as pool:
        taken = [id for worker in pool.map(work, range(8)) for id in worker]
    assert sorted(taken) == sorted(ids)


def test_tenants_take_turns_in_any_order_of_arrival(database: Database) -> None:
    first, second = queue(database, 5, "loud"), queue(database, 2, "quiet")
    taken = [claim(database).id for _ in range(4)]
    assert sum(id in second for id in taken) == 2
    assert sum(id in first for id in taken) == 2


def test_tenant_with_a_larger_weight_gets_more(database: Database) -> None:
    for name, weight in (("light", 1.0), ("heavy", 3.0)):
        scope, domain_id = tenant_with_domain(database, name, weight)
        with database.session() as session:
            for _ in range(8):
                add_generation(session, scope, domain_id, class_name=name)
    names = [row(database, claim(database).id).class_name for _ in range(8)]
    assert names.count("heavy") == 6


def test_jobs_of_a_tenant_are_ordered_by_priority_and_age(database: Database) -> None:
    scope, domain_id = tenant_with_domain(database)
    with database.session() as session:
        ids = [add_generation(session, scope, domain_id, priority=priority).id for priority in (0, 5, 0)]
    assert [claim(database).id for _ in range(3)] == [ids[1], ids[0], ids[2]]


def test_stale_attempt_changes_nothing(database: Database) -> None:
    [id] = queue(database)
    old = claim(database, lease_seconds=-1)
    with database.session() as session:
        jobs.reap(session, Sent(), Generation, max_attempts=3)
    new = claim(database)
    assert (new.id, new.attempt) == (id, old.attempt + 1)
    with database.session() as session:
        assert jobs.guarded(session, Generation, old) is None
        assert jobs.heartbeat(session, Generation, old, 60) == "lost"
        assert jobs.heartbeat(session, Generation, new, 60) == "alive"


def test_lost_row_is_requeued_and_finally_fails(database: Database) -> None:
    [id] = queue(database)
    sent = Sent()
    for attempt in range(3):
        claim(database, lease_seconds=-1)
        with database.session() as session:
            ended = jobs.reap(session, sent, Generation, max_attempts=3)
        assert [job.id for job in ended] == ([id] if attempt == 2 else [])
    assert sent.messages == [("generate.run", "generate", id)] * 2
    job = row(database, id)
    assert (job.status, job.error_code, job.attempt) == ("failed", "crashed_worker", 3)
    assert job.finished_at is not None


def test_job_with_a_valid_lease_is_not_reaped(database: Database) -> None:
    queue(database)
    claimed = claim(database)
    with database.session() as session:
        assert jobs.reap(session, Sent(), Generation, max_attempts=3) == []
    with database.session() as session:
        assert jobs.guarded(session, Generation, claimed) is not None


def test_worker_with_a_late_heartbeat_keeps_its_rows(database: Database) -> None:
    queue(database)
    held = claim(database, lease_seconds=-1)
    with database.session() as session:
        assert jobs.reap(session, Sent(), Generation, max_attempts=1, held=[held]) == []
    with database.session() as session:
        assert jobs.heartbeat(session, Generation, held, -1) == "alive"
    with database.session() as session:  # of an earlier attempt, which no longer has the job
        (ended,) = jobs.reap(session, Sent(), Generation, max_attempts=1, held=[Claim(held.id, held.attempt - 1)])
    assert ended.id == held.id


def test_heartbeat_extends_the_lease(database: Database) -> None:
    queue(database)
    claimed = claim(database, lease_seconds=-1)
    with database.session() as session:
        jobs.heartbeat(session, Generation, claimed, 60)
    with database.session() as session:
        jobs.reap(session, Sent(), Generation, max_attempts=1)
    assert row(database, claimed.id).status == "running"


def test_cancelling_ends_a_queued_row_and_notifies_a_running_one(database: Database) -> None:
    running, waiting = queue(database, 2)
    claimed = claim(database)
    assert claimed.id == running
    with database.session() as session:
        assert jobs.request_cancel(session, session.get_one(Generation, waiting))
        assert not jobs.request_cancel(session, session.get_one(Generation, running))
    assert row(database, waiting).status == "cancelled"
    with database.session() as session:
        assert jobs.heartbeat(session, Generation, claimed, 60) == "cancel"
        assert jobs.claim_next(session, Generation, "w", 60) is None


def test_failure_stores_code_and_detail(database: Database) -> None:
    [id] = queue(database)
    claimed = claim(database)
    with database.session() as session:
        job = jobs.guarded(session, Generation, claimed)
        assert job is not None
        jobs.fail(session, job, TrainingDiverged(7))
    job = row(database, id)
    assert (job.status, job.error_code) == ("failed", "training_diverged")
    assert "step 7" in (job.error_detail or "")


@pytest.mark.parametrize(
    "end", ["cancelled", "cancelled after a requeue", "failed", "crashed", "domain deleted", "tenant deleted"]
)
def test_generation_without_success_counts_what_its_tenant_has_seen(database: Database, end: str) -> None:
    scope, domain_id = tenant_with_domain(database)
    with database.session() as session:
        id = add_generation(session, scope, domain_id, count=4, preview_count=2).id
    claimed = claim(database, lease_seconds=-1 if end == "crashed" else 60)
    with database.session() as session:
        for index, step in ((0, 1), (0, 3), (2, 1)):
            generations.add_preview(session, claimed, index, step, StoredObject("k", "0" * 64, 1))
        generations.progress(session, claimed, 0.5, 17)
    if end == "cancelled":
        with database.session(scope) as session:
            generations.cancel(session, id)
    if end in ("cancelled", "cancelled after a requeue", "failed"):
        error = {"cancelled": Cancelled(), "failed": TrainingDiverged(1)}.get(end, EngineStopped())
        with database.session() as session:
            jobs.settle(session, Sent(), session.get_one(Generation, id), error, max_attempts=3)
    with database.session(SYSTEM if end == "tenant deleted" else scope) as session:
        match end:
            case "cancelled after a requeue":
                generations.cancel(session, id)
            case "domain deleted":
                domains.delete(session, domain_id)
            case "tenant deleted":
                tenants.delete(session, scope.tenant)
    with database.session() as session:
        jobs.reap(session, Sent(), Generation, max_attempts=1)
    with database.session(scope) as session:
        generation = session.get(Generation, id)
        assert generation is None or generation.status == end.split()[0].replace("crashed", "failed")
        [day] = session.scalars(select(UsageDay)).all()
        assert (day.images, day.model_evaluations, images_today(session)) == (2, 17, 2)


def test_generation_that_ends_in_the_queue_counts_nothing(database: Database) -> None:
    [id] = queue(database)
    with database.session() as session:
        generations.cancel(session, id)
        assert session.scalars(select(UsageDay)).all() == []


def test_message_is_sent_after_the_commit(database: Database) -> None:
    scope, domain_id = tenant_with_domain(database)
    sent = Sent()
    with database.session() as session:
        generation = add_generation(session, scope, domain_id)
        jobs.dispatch(session, sent, generation)
        assert sent.messages == []
    assert sent.messages == [("generate.run", "generate", generation.id)]


def test_rollback_drops_the_message(database: Database) -> None:
    scope, domain_id = tenant_with_domain(database)
    sent = Sent()

    def fail_after_dispatch() -> None:
        with database.session() as session:
            jobs.dispatch(session, sent, add_generation(session, scope, domain_id))
            raise TrainingDiverged(1)

    with pytest.raises(TrainingDiverged):
        fail_after_dispatch()
    assert sent.messages == []
