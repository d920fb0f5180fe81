"""Stateful test that compares the service with a model, on both databases: they agree after any order of events."""

import uuid
from dataclasses import dataclass, field

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from core.service.jobs import Claim
from tests.api.client import (
    Api,
    adapter_file,
    draw_generations,
    finish_finetune,
    images_zip,
    problem,
    start_finetunes,
    validate_datasets,
)

NAMES = st.sampled_from(["Fruit", "Hats", "Ships"])
PICK = st.integers(0, 2**16)


@dataclass
class ModelDomain:
    """Expected state of one domain."""

    name: str
    datasets: dict[str, str] = field(default_factory=dict)
    finetunes: dict[str, str] = field(default_factory=dict)
    promoting: set[str] = field(default_factory=set)
    adapters: list[str] = field(default_factory=list)
    """Adapter ids in the order of their versions."""
    active: str | None = None
    generations: dict[str, tuple[str, str]] = field(default_factory=dict)
    """Status and adapter by generation id."""

    def published(self, adapter: str, *, promote: bool) -> None:
        self.adapters.append(adapter)
        if promote or self.active is None:
            self.active = adapter


class Service(RuleBasedStateMachine):
    """One tenant's requests, and a worker's steps between them."""

    api: Api

    def __init__(self) -> None:
        super().__init__()
        self.tenant = self.api.tenant(f"model {uuid.uuid4()}")
        self.domains: dict[str, ModelDomain] = {}
        self.claims: list[Claim] = []

    def domain(self, pick: int) -> tuple[str, ModelDomain]:
        id = sorted(self.domains)[pick % len(self.domains)]
        return id, self.domains[id]

    def some(self) -> bool:
        return bool(self.domains)

    @rule(name=NAMES)
    def create(self, name: str) -> None:
        answer = self.tenant.post("/v1/domains", {"name": name})
        if name in {domain.name for domain in self.domains.values()}:
            problem(answer, 409, "name_taken")
        else:
            self.domains[answer.json()["id"]] = ModelDomain(name)

    @precondition(some)
    @rule(pick=PICK, name=NAMES)
    def rename(self, pick: int, name: str) -> None:
        id, domain = self.domain(pick)
        answer = self.tenant.patch(f"/v1/domains/{id}", {"name": name})
        if name in {other.name for key, other in self.domains.items() if key != id}:
            problem(answer, 409, "name_taken")
        else:
            assert answer.json()["name"] == name
            domain.name = name

    @precondition(some)
    @rule(pick=PICK)
    def delete(self, pick: int) -> None:
        id, domain = self.domain(pick)
        assert self.tenant.delete(f"/v1/domains/{id}").status_code == 204
        del self.domains[id]
        self.claims = [claim for claim in self.claims if claim.id not in domain.finetunes]
        for path in [f"domains/{id}", *(f"adapters/{adapter}" for adapter in domain.adapters)]:
            problem(self.tenant.get(f"/v1/{path}"), 404, "not_found")

    @precondition(some)
    @rule(pick=PICK)
    def upload(self, pick: int) -> None:
        id, domain = self.domain(pick)
        domain.datasets[self.tenant.upload(f"/v1/domains/{id}/datasets", images_zip()).json()["id"]] = "validating"

    @rule()
    def worker_validates(self) -> None:
        validate_datasets(self.api.services)
        for domain in self.domains.values():
            domain.datasets = dict.fromkeys(domain.datasets, "ready")

    @precondition(lambda self: any(domain.datasets for domain in self.domains.values()))
    @rule(pick=PICK, promote=st.booleans())
    def finetune(self, pick: int, promote: bool) -> None:
        with_data = {id: domain for id, domain in self.domains.items() if domain.datasets}
        id = sorted(with_data)[pick % len(with_data)]
        domain = with_data[id]
        dataset = sorted(domain.datasets)[pick % len(domain.datasets)]
        body = {"dataset_id": dataset, "steps": 10, "auto_promote": promote}
        answer = self.tenant.post(f"/v1/domains/{id}/finetunes", body)
        if domain.datasets[dataset] == "validating":
            problem(answer, 409, "dataset_not_ready")
            return
        finetune = answer.json()["id"]
        domain.finetunes[finetune] = "queued"
        if promote:
            domain.promoting.add(finetune)

    @rule()
    def worker_trains(self) -> None:
        self.claims += start_finetunes(self.api.services)
        for domain in self.domains.values():
            running = {id: "running" for id, status in domain.finetunes.items() if status == "queued"}
            domain.finetunes |= running

    @precondition(lambda self: bool(self.claims))
    @rule(pick=PICK)
    def worker_publishes(self, pick: int) -> None:
        claim = self.claims.pop(pick % len(self.claims))
        finish_finetune(self.api.services, claim)
        adapter = self.tenant.read(f"/v1/finetunes/{claim.id}")["adapter_id"]
        (domain,) = [domain for domain in self.domains.values() if claim.id in domain.finetunes]
        domain.finetunes[claim.id] = "succeeded"
        domain.published(adapter, promote=claim.id in domain.promoting)

    @precondition(lambda self: any(domain.finetunes for domain in self.domains.values()))
    @rule(pick=PICK)
    def cancel(self, pick: int) -> None:
        """Cancels a fine-tune that waits or has ended; only the worker decides what happens to a running one."""
        idle = [
            (domain, id) for domain in self.domains.values() for id, status in domain.finetunes.items()
            if status != "running"
        ]  # fmt: skip
        if not idle:
            return
        domain, id = sorted(idle, key=lambda pair: pair[1])[pick % len(idle)]
        answer = self.tenant.post(f"/v1/finetunes/{id}/cancel")
        if domain.finetunes[id] == "queued":
            assert answer.json()["status"] == "cancelled"
            domain.finetunes[id] = "cancelled"
        else:
            problem(answer, 409, "already_finished")

    @precondition(some)
    @rule(pick=PICK)
    def bring(self, pick: int) -> None:
        id, domain = self.domain(pick)
        adapter = self.tenant.upload(f"/v1/domains/{id}/adapters", adapter_file(seed=pick)).json()["id"]
        domain.published(adapter, promote=False)

    @precondition(lambda self: any(domain.adapters for domain in self.domains.values()))
    @rule(pick=PICK)
    def promote(self, pick: int) -> None:
        """Promotes a version of any domain in any domain; only its own domain accepts it."""
        id, domain = self.domain(pick)
        every = sorted(adapter for other in self.domains.values() for adapter in other.adapters)
        adapter = every[pick % len(every)]
        answer = self.tenant.post(f"/v1/domains/{id}/adapters/{adapter}/promote")
        if adapter in domain.adapters:
            assert answer.json()["active_adapter_id"] == adapter
            domain.active = adapter
        else:
            problem(answer, 404, "not_found")

    @precondition(some)
    @rule(pick=PICK)
    def generate(self, pick: int) -> None:
        id, domain = self.domain(pick)
        answer = self.tenant.post(f"/v1/domains/{id}/generations", {"class_id": 0, "steps": 2})
        if domain.active is None:
            problem(answer, 409, "no_active_adapter")
        else:
            domain.generations[answer.json()["id"]] = ("queued", domain.active)

    @rule()
    def worker_draws(self) -> None:
        draw_generations(self.api.services)
        for domain in self.domains.values():
            drawn = {id: ("succeeded", state[1]) for id, state in domain.generations.items() if state[0] == "queued"}
            domain.generations |= drawn

    @invariant()
    def api_and_model_agree(self) -> None:
        listed = {row["id"]: row for row in self.tenant.read("/v1/domains", params={"limit": 100})["data"]}
        assert {id: (row["name"], row["active_adapter_id"]) for id, row in listed.items()} == {
            id: (domain.name, domain.active) for id, domain in self.domains.items()
        }
        for id, domain in self.domains.items():
            assert self._statuses(f"/v1/domains/{id}/datasets") == domain.datasets
            assert self._statuses(f"/v1/domains/{id}/finetunes") == domain.finetunes
            rows = self.tenant.read(f"/v1/domains/{id}/adapters", params={"limit": 100})["data"]
            versions = [(row["id"], row["version"]) for row in reversed(rows)]
            assert versions == [(adapter, number + 1) for number, adapter in enumerate(domain.adapters)]
            drawn = self.tenant.read(f"/v1/domains/{id}/generations", params={"limit": 100})["data"]
            assert {row["id"]: (row["status"], row["adapter_id"]) for row in drawn} == domain.generations
            assert all(len(row["images"]) == (row["status"] == "succeeded") for row in drawn)

    def teardown(self) -> None:
        """Deletes the domains, so that the next example and other tests find no waiting work."""
        for id in self.domains:
            self.tenant.delete(f"/v1/domains/{id}")

    def _statuses(self, path: str) -> dict[str, str]:
        return {row["id"]: row["status"] for row in self.tenant.read(path, params={"limit": 100})["data"]}


def test_random_requests_behave_like_the_model(api: Api) -> None:
    machine = type("ServiceOfThisRun", (Service,), {"api": api})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=8, stateful_step_count=25, deadline=None, derandomize=True, database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )  # fmt: skip
