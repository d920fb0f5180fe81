"""A connection to the store that is cut at random positions during downloads."""

import time

from tests.faults.stack import Outcome, until
from tests.faults.storage import StackOnS3
from tests.faults.workers import ended, prepared, start_finetune
from tests.processes import Caller
from tests.test_main_job import upload

_BYTES = 2**17
"""Maximum bytes before a cut, which may be in a response's headers or body."""
_READS = 5


def downloads_cut(stack: StackOnS3, times: int) -> Outcome:
    """Cuts downloads while a data set is validated, a fine-tune reads its images, and images are requested.

    Held: each image is complete, or refused with its code. Lost: a data set or fine-tune that did not succeed.
    """
    started, chance, held, lost = time.monotonic(), stack.chance(), 0, 0
    caller, domain, dataset = prepared(stack)
    body = {"class_id": 0, "steps": 2, "adapter_id": "base"}
    generation = str(caller.post(f"/v1/domains/{domain}/generations", body)["id"])
    until(lambda: ended(stack, "generations", generation))
    image = f"/v1/generations/{generation}/images/0"
    whole, breaks = caller.send("GET", image).raise_for_status().content, stack.proxy.breaks
    for _ in range(times):
        sent = upload(caller, domain)["id"]
        stack.proxy.strike("cut", chance.randrange(_BYTES), "down", times=chance.randint(1, 8))
        finetune = start_finetune(caller, domain, dataset, steps=2)
        good = all(_is_whole_or_refused(caller, image, whole) for _ in range(_READS))
        until(lambda: ended(stack, "finetunes", finetune))  # noqa: B023  # called at once
        ready = caller.wait(f"/v1/datasets/{sent}", "validating")["status"] == "ready"
        stack.proxy.mend()
        lost += not (ready and caller.get(f"/v1/finetunes/{finetune}")["status"] == "succeeded")
        held += good and caller.send("GET", image).content == whole
    must = "data sets and fine-tunes succeed; no image is incomplete"
    note = f"on {stack.server}; {stack.proxy.breaks - breaks} cuts"
    return Outcome("downloads cut at random positions", must, times, held, lost, time.monotonic() - started, note)


def _is_whole_or_refused(caller: Caller, image: str, whole: bytes) -> bool:
    answer = caller.send("GET", image)
    if answer.status_code == 200:
        return answer.content == whole
    return bool(answer.json()["code"] == "storage_unavailable")
