"""A full temporary folder of the API and its worker."""

import time

from tests.faults.disk import MountedDisk
from tests.faults.stack import Outcome, Stack, until
from tests.faults.storage import large_archive
from tests.faults.workers import ended, prepared, start_finetune
from tests.test_main_job import upload


class StackOnSmallScratch(Stack):
    """Service whose temporary files are on a separate file system, which can be filled up."""

    scratch: MountedDisk | None
    """None if mounting is not permitted."""


def scratch_full(stack: StackOnSmallScratch, times: int) -> Outcome:
    """Fills the temporary folder, sends a large data set, which the API must spool, and a small one, and fine-tunes.

    Held: the large upload is refused with the reason, and accepted once there is space. Lost: the small data set or the
    fine-tune did not succeed, although the worker reads from the store.
    """
    started, held, lost, disk = time.monotonic(), 0, 0, stack.scratch
    must = "a large upload is refused with its code and accepted later; everything else succeeds"
    if disk is None:
        return Outcome("temporary folder full", must, 0, 0, 0, 0.0, "not tried: mounting is not permitted")
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
    return Outcome("temporary folder full", must, times, held, lost, time.monotonic() - started)
