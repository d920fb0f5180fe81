"""Redis that is killed, emptied or away; a message that arrives a hundred times."""

import time
from typing import Any

from core.service.broker import CeleryDispatcher, make_celery
from core.service.config import Settings
from tests.faults.stack import Outcome, Stack, until
from tests.faults.workers import ended, prepared, whole_images
from tests.processes import Caller

QUICK: dict[str, Any] = {"class_id": 0, "count": 2, "steps": 2, "seed": 11, "adapter_id": "base"}
QUICK["guidance_interval"] = [0, 999]  # so that every step takes two model evaluations
DRAINED_WITHIN = 60.0
ANSWERED_WITHIN = 2.0


def redis_away(stack: Stack, jobs: int, seconds: float) -> Outcome:
    """Kills Redis, sends jobs while it is away, and starts it again, empty."""
    started = time.monotonic()
    caller, domain, _ = prepared(stack)
    stack.redis.kill()
    sent, slowest = _send(caller, domain, jobs)
    time.sleep(max(0.0, seconds - (time.monotonic() - started)))
    stack.redis.start()
    drained = until(lambda: all(ended(stack, "generations", id) for id in sent))
    late = int(drained > DRAINED_WITHIN) + int(slowest > ANSWERED_WITHIN)
    note = f"slowest POST {slowest:.2f} s; queue empty {drained:.1f} s after the restart"
    must = "POST returns 202 within 2 s; no job lost; queue empty within 60 s of the restart"
    lost = jobs - whole_images(caller, sent)
    return Outcome("Redis killed and away", must, jobs, len(sent), lost, time.monotonic() - started, note, late)


def redis_emptied(stack: Stack, jobs: int) -> Outcome:
    """Empties Redis after each new job."""
    started = time.monotonic()
    caller, domain, _ = prepared(stack)
    sent = []
    for _ in range(jobs):
        ids, _ = _send(caller, domain, 1)
        sent += ids
        stack.redis.client.flushall()
    drained = until(lambda: all(ended(stack, "generations", id) for id in sent))
    late = int(drained > DRAINED_WITHIN)
    lost = jobs - whole_images(caller, sent)
    note = f"queue empty {drained:.1f} s after the last job"
    return Outcome("Redis emptied", "no job lost", jobs, len(sent), lost, time.monotonic() - started, note, late)


def repeated_message(stack: Stack, messages: int) -> Outcome:
    """Sends the same wake-up many times, before and while its database row is being processed."""
    started = time.monotonic()
    caller, domain, _ = prepared(stack)
    settings = Settings(_env_file=None, broker_url=stack.redis.url)  # type: ignore[call-arg]
    dispatcher = CeleryDispatcher(make_celery(settings))
    (id,), _ = _send(caller, domain, 1)
    for _ in range(messages):
        dispatcher.send("generate.run", "generate", id)
    until(lambda: ended(stack, "generations", id))
    until(lambda: stack.redis.client.llen("generate") == 0)
    (row,) = stack.rows("SELECT attempt, model_evaluations FROM generations WHERE id = %s", id)
    once = row == {"attempt": 1, "model_evaluations": 2 * QUICK["count"] * QUICK["steps"]}
    lost = 1 - whole_images(caller, [id])
    return Outcome(
        f"the same message {messages} times", "one execution", 1, int(once), lost, time.monotonic() - started
    )


def _send(caller: Caller, domain: str, jobs: int) -> tuple[list[str], float]:
    """Returns the ids, and the seconds of the slowest response."""
    ids, slowest = [], 0.0
    for _ in range(jobs):
        started = time.monotonic()
        answer = caller.send("POST", f"/v1/domains/{domain}/generations", json=QUICK)
        slowest = max(slowest, time.monotonic() - started)
        assert answer.status_code == 202, answer.text
        ids.append(answer.json()["id"])
    return ids, slowest
