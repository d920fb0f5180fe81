"""Random crashes of workers, devices, stores and jobs of several tenants: no job is lost or blamed for another, every
delay is kept, and all jobs end."""

import datetime
from collections import Counter
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from sqlalchemy import select

from core.artifact.errors import DeviceLost, EngineStopped
from core.service import jobs
from core.service.db.base import new_id
from core.service.db.models import Dataset, Finetune, Generation
from core.service.db.session import Database, database_now
from core.service.jobs import Claim
from core.service.storage.errors import StorageUnavailable
from tests.core.service.rows import Sent, add_dataset, add_finetune, add_generation, tenant_with_domain

ATTEMPTS = 3
Held = tuple[Any, Claim]


class Machine(RuleBasedStateMachine):
    """Model whose workers are sets of claims and whose time passes by rules. Poison kills a worker that finishes it."""

    database: Database

    def __init__(self) -> None:
        super().__init__()
        self.owners = [tenant_with_domain(self.database, new_id("tenant")) for _ in range(3)]
        self.jobs: dict[str, Any] = {}
        self.poison: set[str] = set()
        self.alone: Counter[str] = Counter()
        """Deaths of workers by the job that ran alone, for which only this job may be blamed."""
        self.workers: dict[str, list[Held]] = {}
        self.started = 0
        self.start_worker()

    @rule()
    def start_worker(self) -> None:
        self.started += 1
        self.workers[f"wrk_{self.started:04}"] = []

    @rule(tenant=st.integers(0, 2), model=st.sampled_from([Dataset, Finetune, Generation]), poison=st.booleans())
    def submit(self, tenant: int, model: Any, poison: bool) -> None:
        scope, domain = self.owners[tenant]
        with self.database.session() as session:
            match model.__name__:
                case "Dataset":
                    id = add_dataset(session, scope, domain, status="validating").id
                case "Finetune":
                    id = add_finetune(session, scope, domain)
                case _:
                    id = add_generation(session, scope, domain).id
        self.jobs[id] = model
        if poison:
            self.poison.add(id)

    @rule(data=st.data(), model=st.sampled_from([Dataset, Finetune, Generation]))
    def claim(self, data: st.DataObject, model: Any) -> None:
        self._claim(data.draw(st.sampled_from(sorted(self.workers))), model)

    @precondition(lambda self: any(self.workers.values()))
    @rule(data=st.data())
    def work(self, data: st.DataObject) -> None:
        worker = data.draw(st.sampled_from(sorted(name for name, held in self.workers.items() if held)))
        self._work(worker, data.draw(st.sampled_from(self.workers[worker])))

    @precondition(lambda self: any(self.workers.values()))
    @rule(data=st.data())
    def store_refuses(self, data: st.DataObject) -> None:
        worker = data.draw(st.sampled_from(sorted(name for name, held in self.workers.items() if held)))
        held = data.draw(st.sampled_from(self.workers[worker]))
        self.workers[worker].remove(held)
        self._change(held[1].id, requeues=8)  # a delay longer than the test
        self._settle(held, StorageUnavailable("refused"))

    @rule(data=st.data())
    def stop(self, data: st.DataObject) -> None:
        for held in self.workers.pop(self._any(data)):
            self._settle(held, EngineStopped())
        self.start_worker()

    @rule(data=st.data())
    def kill(self, data: st.DataObject) -> None:
        self._kill(self._any(data))

    @rule(data=st.data())
    def lose_device(self, data: st.DataObject) -> None:
        rows = self.workers.pop(self._any(data))
        self._count_alone(rows)
        for held in rows:
            self._settle(held, DeviceLost("illegal memory access"))
        self.start_worker()

    @rule()
    def reap(self) -> None:
        with self.database.session() as session:
            for model in jobs.KINDS:
                jobs.reap(session, Sent(), model, ATTEMPTS)

    @rule()
    def let_time_pass(self) -> None:
        for id in self.jobs:
            self._change(id, not_before=None)

    @invariant()
    def suspects_run_alone(self) -> None:
        for held in self.workers.values():
            suspects = [claim for model, claim in held if self._row(claim.id).suspect]
            assert not suspects or len(held) == 1

    @invariant()
    def no_job_is_blamed_for_another(self) -> None:
        for id in self.jobs:
            row = self._row(id)
            assert row.crashes <= self.alone[id]
            assert row.error_code in (None, "storage_unavailable", "crashed_worker", "device_crashed")
            if row.status in ("failed", "rejected"):
                assert self.alone[id] >= (2 if row.error_code == "device_crashed" else ATTEMPTS)

    def teardown(self) -> None:
        """From now on only poison kills workers; all jobs end within a bounded number of attempts."""
        before = sum(self._row(id).attempt for id in self.jobs)
        for _ in range(20 * (len(self.jobs) + 1)):
            self._let_all_work()
        attempts = sum(self._row(id).attempt for id in self.jobs) - before
        assert attempts <= (2 + ATTEMPTS + len(self.poison)) * len(self.jobs)
        for id, model in self.jobs.items():
            row, kind = self._row(id), jobs.KINDS[model]
            assert row.status in (kind.succeeded, kind.failed), "no job may be lost"
            if id in self.poison:
                assert row.error_code in ("crashed_worker", "device_crashed")
            elif self.alone[id] < 2:
                assert row.status == kind.succeeded

    def _let_all_work(self) -> None:
        if all(self._row(id).finished_at for id in self.jobs):
            return
        self.reap()
        self.let_time_pass()
        for worker in list(self.workers):
            for model in jobs.KINDS:
                self._claim(worker, model)
        for worker, held in list(self.workers.items()):
            for claim in list(held):
                if worker in self.workers:
                    self._work(worker, claim)

    def _any(self, data: st.DataObject) -> str:
        return str(data.draw(st.sampled_from(sorted(self.workers))))

    def _claim(self, worker: str, model: Any) -> None:
        with self.database.session() as session:
            now = database_now(session)
            early = set(session.execute(select(model.id).where(model.not_before > now)).scalars())
            claim = jobs.claim_next(session, model, worker, 3600)
        if claim is not None:
            assert claim.id not in early, "the delay must be kept"
            self.workers[worker].append((model, claim))

    def _work(self, worker: str, held: Held) -> None:
        model, claim = held
        if claim.id in self.poison:
            self._kill(worker)
            return
        self.workers[worker].remove(held)
        with self.database.session() as session:
            row = jobs.guarded(session, model, claim)
            assert row is not None
            jobs.finish(session, row, jobs.KINDS[model].succeeded)

    def _kill(self, worker: str) -> None:
        rows = self.workers.pop(worker)
        self._count_alone(rows)
        with self.database.session() as session:
            past = database_now(session) - datetime.timedelta(seconds=1)
        for _, claim in rows:
            self._change(claim.id, lease_expires_at=past)
        self.start_worker()

    def _count_alone(self, rows: list[Held]) -> None:
        if len(rows) == 1:
            self.alone[rows[0][1].id] += 1

    def _settle(self, held: Held, error: Exception) -> None:
        model, claim = held
        with self.database.session() as session:
            row = jobs.guarded(session, model, claim)
            assert row is not None
            jobs.settle(session, Sent(), row, error, ATTEMPTS)

    def _row(self, id: str) -> Any:
        with self.database.session() as session:
            return session.get_one(self.jobs[id], id)

    def _change(self, id: str, **values: Any) -> None:
        with self.database.session() as session:
            job = session.get_one(self.jobs[id], id)
            for name, value in values.items():
                setattr(job, name, value)


def test_no_job_is_lost_or_failed_because_of_another(database: Database) -> None:
    def machine() -> Machine:
        with database.session() as session:
            for model in (Finetune, Generation, Dataset):
                for row in session.execute(select(model)).scalars():
                    session.delete(row)
        return Machine()

    Machine.database = database
    options = settings(max_examples=12, stateful_step_count=25, deadline=None)
    run_state_machine_as_test(machine, settings=options)  # type: ignore[arg-type]  # a factory will do
