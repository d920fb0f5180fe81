"""Fine-tunes that are cancelled while something else happens to their worker, and workers that are told to stop."""

import signal
import time
from typing import Any

from tests.faults.stack import Outcome, Stack, until
from tests.faults.workers import TABLES, Jobs, alive, ended, prepared, row, start_finetune

CANCELLED_WITHIN = 10.0
STRIKES = ("asleep", "killed after", "none", "killed before")


def cancels(stack: Stack, times: int) -> Outcome:
    """A running fine-tune is cancelled: its worker is left alone, or killed just before or after, or sleeps past its
    lease and wakes up.

    Held: it was cancelled and nothing of it changed any more; late: after more than ten seconds. Lost: one that ended
    otherwise or has a version.
    """
    started, chance, held, lost, took = time.monotonic(), stack.chance(), 0, 0, list[float]()
    caller, domain, dataset = prepared(stack)
    for number in range(times):
        strike = STRIKES[number % len(STRIKES)]
        id = start_finetune(caller, domain, dataset, steps=10_000)
        until(lambda: row(stack, "finetunes", id)["step"])  # noqa: B023  # called at once
        time.sleep(chance.uniform(0, 2))
        pid = stack.holder("finetunes", id)
        assert pid is not None, "it has thousands of steps to go"
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
        time.sleep(stack.lease)  # whoever would take it up or write to it has done so
        good = before["status"] == "cancelled" and not before["adapters"]
        held += good and row(stack, "finetunes", id) == before
        lost += not good
    note = f"after {max(took):.1f} s at most"
    late = sum(one > CANCELLED_WITHIN for one in took)
    must = "cancelled within 10 s, whatever its worker does; it never reverts"
    return Outcome("cancelled while it runs", must, times, held, lost, time.monotonic() - started, note, late)


def stops(stack: Stack, times: int) -> Outcome:
    """One of two workers gets a SIGTERM at a random moment of a fine-tune or of a generation, and is replaced.

    Held: it ended well, and its work went back at once, a fine-tune with a checkpoint of that very moment. Lost: what
    did not end with one version, the same file each, and the same pictures each.
    """
    started, chance, held, took = time.monotonic(), stack.chance(), 0, list[float]()
    jobs = Jobs(stack)
    while len(took) < times:
        table = TABLES[len(took) % 2]
        id = jobs.start(table)
        jobs.moment(table, chance.uniform(0, 0.8))
        pid = stack.holder(table, id)
        if pid is None:
            continue  # it was too quick: another one
        process = stack.workers.pop(pid)
        told = time.monotonic()
        process.send_signal(signal.SIGTERM)
        code = process.wait(60)
        took.append(time.monotonic() - told)
        stack.add_worker()
        until(lambda: ended(stack, table, id))  # noqa: B023  # called at once
        found = row(stack, table, id)
        handed_back = found["failures"] == 0 and (table == "generations" or _no_step_lost(found["finetune_events"]))
        held += code == 0 and handed_back
        until(lambda: len(alive(stack)) >= 2)
    note = f"stopped after {max(took):.1f} s at most"
    must = "it stops well; what it held goes on at once, from the same step"
    return Outcome("SIGTERM of a worker", must, times, held, jobs.lost(), time.monotonic() - started, note)


def _no_step_lost(events: Any) -> bool:
    """Every attempt begins at the last step that was told of before it, or behind that."""
    last = 0
    for event in events:
        if event["type"] == "progress":
            last = event["data"]["step"]
        elif event["type"] == "status" and event["data"].get("step", last) < last:
            return False
    return True
