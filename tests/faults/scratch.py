"""No room for temporary files, at the API and its worker."""

import time

from tests.faults.disk import MountedDisk
from tests.faults.stack import Outcome, Stack, until
from tests.faults.storage import large_archive
from tests.faults.workers import ended, prepared, start_finetune
from tests.test_main_job import upload


class StackOnSmallScratch(Stack):
    """Its temporary files are on a file system of their own, which can be filled up."""

    scratch: MountedDisk | None
    """None where nobody may mount."""


def scratch_full(stack: StackOnSmallScratch, times: int) -> Outcome:
    """It is full while a data set comes that the API must spool, one that it need not, and a fine-tune.

    Held: the large upload is refused with the reason, and the same one is taken once there is room. Lost: whatever else
    did not end well, since the worker reads from the store.
    """
    started, held, lost, disk = time.monotonic(), 0, 0, stack.scratch
    must = "what needs it is refused with its code and taken later; all else goes on"
    if disk is None:
        return Outcome("scratch full", must, 0, 0, 0, 0.0, "not tried: this needs a file system of its own")
    caller, domain, dataset = prepared(stack)
    files = {"file": ("set.zip", large_archive())}
    for _ in range(times):
        disk.fill()
        refused = caller.send("POST", f"/v1/domains/{domain}/datasets", files=files)
        finetune, small = start_finetune(caller, domain, dataset, steps=2), upload(caller, domain)["id"]
        until(lambda: ended(stack, "finetunes", finetune))  # noqa: B023  # called at once
        trained = caller.get(f"/v1/finetunes/{finetune}")["status"] == "succeeded"
        lost += not (trained and caller.wait(f"/v1/datasets/{small}", "validating")["status"] == "ready")
        disk.free()
        taken = caller.send("POST", f"/v1/domains/{domain}/datasets", files=files)
        whole = taken.status_code == 202
        whole = whole and caller.wait(f"/v1/datasets/{taken.json()['id']}", "validating")["status"] == "ready"
        held += whole and (refused.status_code, refused.json()["code"]) == (503, "storage_full")
    return Outcome("scratch full", must, times, held, lost, time.monotonic() - started)
