"""Fine-tunes cancelled while their worker is killed or paused, and workers that are asked to stop."""

import signal
import time
from typing import Any

from tests.faults.stack import Outcome, Stack, until
from tests.faults.workers import TABLES, Jobs, alive, ended, prepared, row, start_finetune

CANCELLED_WITHIN = 10.0
STRIKES = ("asleep", "killed after", "none", "killed before")


def cancels(stack: Stack, times: int) -> Outcome:
    """Cancels a running fine-tune whose worker runs on, is killed just before or after, or is paused past its lease.

    Held: it is cancelled and its rows do not change afterwards. Late: after more than ten seconds. Lost: a fine-tune
    that ended otherwise or has a version.
    """
    started, chance, held, lost, took = time.monotonic(), stack.chance(), 0, 0, list[float]()
    caller, domain, dataset = prepared(stack)
    for number in range(times):
        strike = STRIKES[number % len(STRIKES)]
        id = start_finetune(caller, domain, dataset, steps=10_000)
        until(lambda: row(stack, "finetunes", id)["step"])  # noqa: B023  # called at once
        time.sleep(chance.uniform(0, 2))
        pid = stack.holder("finetunes", id)
        assert pid is not None, "thousands of steps remain"
        process = stack.workers[pid]
        if strike == "killed before":
            stack.kill_worker(pid)
        elif strike == "asleep":
            process.send_signal(signal.SIGSTOP)
        caller.post(f"/v1/finetunes/{id}/cancel", {})
        if strike == "killed after":
            stack.kill_worker(pid)
        took.append(until(lambda: ended(stack, "finetunes", id)))  # noqa: B023
        before = row(stack, "finetunes", id)
        process.send_signal(signal.SIGCONT)
        if pid not in stack.workers:
            stack.add_worker()
            until(lambda: len(alive(stack)) >= 2)
        time.sleep(stack.lease)  # long enough for any other worker to claim it or write to it
        good = before["status"] == "cancelled" and not before["adapters"]
        held += good and row(stack, "finetunes", id) == before
        lost += not good
    note = f"cancelled after {max(took):.1f} s at most"
    late = sum(seconds > CANCELLED_WITHIN for seconds in took)
    must = "cancelled within 10 s, whatever happens to its worker, and not changed afterwards"
    return Outcome("a running fine-tune cancelled", must, times, held, lost, time.monotonic() - started, note, late)


def stops(stack: Stack, times: int) -> Outcome:
    """Sends SIGTERM to one of two workers at a random moment of a fine-tune or generation, and replaces the worker.

    Held: the worker exits with status 0 and requeues its job at once, a fine-tune with a checkpoint of its last step.
    Lost: a job that did not end with exactly one version and equal files, or with equal images.
    """
    started, chance, held, took = time.monotonic(), stack.chance(), 0, list[float]()
    jobs = Jobs(stack)
    while len(took) < times:
        table = TABLES[len(took) % 2]
        id = jobs.start(table)
        jobs.moment(table, chance.uniform(0, 0.8))
        pid = stack.holder(table, id)
        if pid is None:
            continue  # the job has already ended: try another one
        process = stack.workers.pop(pid)
        signalled = time.monotonic()
        process.send_signal(signal.SIGTERM)
        code = process.wait(60)
        took.append(time.monotonic() - signalled)
        stack.add_worker()
        until(lambda: ended(stack, table, id))  # noqa: B023  # called at once
        job_row = row(stack, table, id)
        requeued = job_row["failures"] == 0 and (table == "generations" or _no_step_lost(job_row["finetune_events"]))
        held += code == 0 and requeued
        until(lambda: len(alive(stack)) >= 2)
    note = f"stopped after {max(took):.1f} s at most"
    must = "exit status 0; its job continues at once, from the same step"
    return Outcome("SIGTERM of a worker", must, times, held, jobs.lost(), time.monotonic() - started, note)


def _no_step_lost(events: Any) -> bool:
    """Returns whether every attempt starts at the last step reported before it, or later."""
    last = 0
    for event in events:
        if event["type"] == "progress":
            last = event["data"]["step"]
        elif event["type"] == "status" and event["data"].get("step", last) < last:
            return False
    return True
