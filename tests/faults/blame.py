"""Dying devices and jobs that kill their worker: no other job may fail for it."""

import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from os import environ
from typing import Any

import httpx

from tests.faults.broken_worker import GREEDY_SEED, KILLER_SEED
from tests.faults.stack import HEARTBEAT, Outcome, until
from tests.faults.supervised import SupervisedStack
from tests.faults.workers import ended, prepared
from tests.processes import ADMIN, Caller

TENANTS = 3
READINESS_SECONDS = 2.0
"""Maximum age of a response of /readyz."""
Job = tuple[str, str]
"""Table and id of a job."""


@dataclass(frozen=True)
class Client:
    """Tenant with a ready data set."""

    caller: Caller
    domain: str
    dataset: str

    def draw(self, seed: int = 11, steps: int = 20) -> Job:
        body = {"class_id": 0, "seed": seed, "steps": steps, "adapter_id": "base"}
        return "generations", self._post("generations", body)

    def train(self, seed: int = 0, steps: int = 60) -> Job:
        body = {"dataset_id": self.dataset, "steps": steps, "batch_size": 2, "preset": "literal", "seed": seed}
        return "finetunes", self._post("finetunes", body)

    def _post(self, kind: str, body: dict[str, Any]) -> str:
        return str(self.caller.post(f"/v1/domains/{self.domain}/{kind}", body)["id"])


def device_dies(stack: SupervisedStack, generations: int, finetunes: int) -> Outcome:
    """Kills the device of the only worker while it trains and generates, with most generations in the queue."""
    started, ends = time.monotonic(), len(stack.statuses)
    clients = _clients(stack)
    jobs = [client.train() for client in clients[:finetunes]]
    until(lambda: _row(stack, jobs[0])["step"])
    jobs += [clients[index % TENANTS].draw() for index in range(generations)]
    until(lambda: any(_row(stack, job)["status"] == "running" for job in jobs[finetunes:]))
    stack.restarts.clear()
    stack.kill_device()
    listed, ready, command = _seconds_until_unhealthy(stack)
    until(lambda: len(stack.statuses) > ends)
    stack.restarts.set()
    until(lambda: all(ended(stack, *job) for job in jobs))
    succeeded = sum(_row(stack, job)["status"] == "succeeded" for job in jobs)
    statuses = stack.statuses[ends:]
    right = command != 0 and len(statuses) == 1 and statuses[0] > 0
    late = (listed > HEARTBEAT) + (ready > HEARTBEAT + READINESS_SECONDS)
    return Outcome(
        f"the device dies during {generations} generations and {finetunes} fine-tunes of {TENANTS} tenants",
        f"all succeed after the restart; the worker is listed as unhealthy within a heartbeat of {HEARTBEAT:.0f} s, in "
        f"/readyz at most {READINESS_SECONDS:.0f} s later, and exits with an error status",
        len(jobs) + 1,
        succeeded + right,
        len(jobs) - succeeded,
        time.monotonic() - started,
        f"listed after {listed:.2f} s, /readyz after {ready:.2f} s, worker.health {command}, exit status {statuses}",
        late,
    )


def job_kills_device(stack: SupervisedStack, neighbours: int, steps: int) -> Outcome:
    """Runs a generation that kills the device each time, next to jobs of three tenants."""
    started, ends = time.monotonic(), len(stack.statuses)
    clients = _clients(stack)
    killer, *innocent = _mixed(clients, neighbours, steps, clients[0].draw(seed=KILLER_SEED))
    until(lambda: all(ended(stack, *job) for job in (killer, *innocent)))
    row = _row(stack, killer)
    until(lambda: len(stack.statuses) >= ends + 2, seconds=60)  # the last worker ends after its database row
    note = f"{_end(row)} after {row['crashes']} deaths while alone; {len(stack.statuses) - ends} workers ended"
    right = (_end(row), row["crashes"]) == ("device_crashed", 2)
    return _outcome(
        stack,
        f"a generation that kills the device, next to {neighbours} jobs of {TENANTS} tenants",
        "only this generation fails, with device_crashed after it ran alone twice; the others succeed",
        innocent,
        right=int(right),
        rounds=1,
        started=started,
        note=note,
    )


def job_kills_workers(stack: SupervisedStack, neighbours: int, steps: int, times: int) -> Outcome:
    """Runs a fine-tune that takes so much memory that its worker is killed, next to jobs of three tenants."""
    started, ends = time.monotonic(), len(stack.statuses)
    clients, innocent, codes = _clients(stack), list[Job](), []
    for _ in range(times):
        poison, *others = _mixed(clients, neighbours, steps, clients[0].train(seed=GREEDY_SEED))
        until(lambda: all(ended(stack, *job) for job in (poison, *others)))  # noqa: B023  # called at once
        codes.append(_end(_row(stack, poison)))
        innocent += others
    statuses = stack.statuses[ends:]
    return _outcome(
        stack,
        f"a fine-tune that takes all memory, next to {neighbours} jobs of {TENANTS} tenants, {times} times",
        "only this fine-tune fails, with crashed_worker; the others succeed",
        innocent,
        right=codes.count("crashed_worker"),
        rounds=times,
        started=started,
        note=f"{', '.join(codes)}; {len(statuses)} workers ended, exit statuses {sorted(set(statuses))}",
    )


def _clients(stack: SupervisedStack) -> list[Client]:
    return [Client(*prepared(stack)) for _ in range(TENANTS)]


def _mixed(clients: Sequence[Client], neighbours: int, steps: int, culprit: Job) -> list[Job]:
    """Starts jobs next to the culprit: three generations for each fine-tune. Returns all of them, the culprit first."""
    jobs = [culprit]
    for index in range(neighbours):
        client = clients[index % TENANTS]
        jobs.append(client.train() if index % 4 == 3 else client.draw(steps=steps))
    return jobs


def _outcome(
    stack: SupervisedStack,
    fault: str,
    must: str,
    innocent: Sequence[Job],
    *,
    right: int,
    rounds: int,
    started: float,
    note: str,
) -> Outcome:
    rows = [_row(stack, job) for job in innocent]
    lost = [_end(row) for row in rows if row["status"] != "succeeded"]
    note = "; ".join([note, *lost])
    tried, held = len(innocent) + rounds, len(innocent) - len(lost) + right
    return Outcome(fault, must, tried, held, len(lost), time.monotonic() - started, note)


def _seconds_until_unhealthy(stack: SupervisedStack) -> tuple[float, float, int]:
    """Returns the seconds until the administrators' list and /readyz report no healthy worker, and the exit status of
    `python -m worker.health`."""
    admin, started = Caller(stack.http, ADMIN), time.monotonic()

    def listed() -> bool:
        return not any(worker["healthy"] for worker in admin.get("/v1/admin/workers")["data"])

    until(listed, seconds=60)
    in_list = time.monotonic() - started
    until(lambda: "worker" in httpx.get(f"{stack.url}/readyz").json()["warnings"], seconds=60)
    in_readiness = time.monotonic() - started
    command = [sys.executable, "-m", "worker.health"]
    health = subprocess.run(command, env={**environ, **stack.environment}, capture_output=True, check=False)
    return in_list, in_readiness, health.returncode


def _row(stack: SupervisedStack, job: Job) -> dict[str, Any]:
    table, id = job
    return stack.rows(f"SELECT * FROM {table} WHERE id = %s", id)[0]


def _end(row: dict[str, Any]) -> str:
    return str(row["error_code"] or row["status"])
