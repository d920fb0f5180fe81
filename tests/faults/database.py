"""PostgreSQL restarted under load."""

import threading
import time
from collections import Counter

import httpx

from tests.faults.stack import Outcome, Stack, until
from tests.processes import Caller

READY_WITHIN = 10.0
WRITERS = 4


def postgres_restarts(stack: Stack, restarts: int) -> Outcome:
    """Restarts the server in fast mode while clients create domains without a pause.

    Lost: an acknowledged domain that is missing. Held: a restart after which the service was ready again, with no
    response but 201 and 503 with Retry-After. Late: ready after more than ten seconds.
    """
    started = time.monotonic()
    caller = stack.tenant()
    stop, acknowledged, answers = threading.Event(), [], Counter[str]()

    def write(number: int) -> None:
        with httpx.Client(base_url=stack.url, timeout=60) as http:
            own, count = Caller(http, caller.key), 0
            while not stop.is_set():
                count += 1
                name = f"domain {number}-{count}"
                answer = own.send("POST", "/v1/domains", json={"name": name})
                if answer.status_code == 201:
                    acknowledged.append(name)
                retry = answer.status_code == 503 and "retry-after" in answer.headers
                answers["503 with Retry-After" if retry else str(answer.status_code)] += 1

    threads = [threading.Thread(target=write, args=(number,)) for number in range(WRITERS)]
    for thread in threads:
        thread.start()
    ready = []
    for _ in range(restarts):
        time.sleep(2)
        stack.postgres.restart()
        ready.append(until(lambda: httpx.get(f"{stack.url}/readyz").status_code == 200))
    time.sleep(1)
    stop.set()
    for thread in threads:
        thread.join()
    held = 0 if set(answers) - {"201", "503 with Retry-After"} else len(ready)
    present = {row["name"] for row in stack.rows("SELECT name FROM domains")}
    lost = len(set(acknowledged) - present)
    note, late = f"{dict(answers)}; ready after {max(ready):.1f} s at most", sum(took > READY_WITHIN for took in ready)
    must = "0 acknowledged writes lost; 503 with Retry-After; ready within 10 s"
    return Outcome(
        "PostgreSQL restarted under load", must, restarts, held, lost, time.monotonic() - started, note, late
    )
