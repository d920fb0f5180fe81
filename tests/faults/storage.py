"""An object store that is unreachable, resets or freezes during an upload; an adapter with a wrong byte."""

import io
import os
import time
import zipfile

from core.ml.bundled import sample_domain_folder
from core.service.storage import FolderStore, S3Store
from tests.faults.proxy import Fault, Proxy
from tests.faults.stack import Outcome, Stack, until
from tests.faults.workers import ended, prepared, start_finetune
from tests.processes import Caller

MEBIBYTE = 2**20


class StackOnS3(Stack):
    """Service whose store is an S3 server behind a proxy that can break."""

    proxy: Proxy
    store: S3Store
    server: str


def uploads_break(stack: StackOnS3, faults: list[tuple[Fault, int]]) -> Outcome:
    """Uploads a data set of several parts while the connection to the store breaks after some bytes, then again.

    Held: a response of 503 with its code, no trace in the service or the store, and the same upload is accepted later.
    Lost: a data set that is visible and not ready.
    """
    started, held, slowest, failed = time.monotonic(), 0, 0.0, list[str]()
    caller, proxy, store = stack.tenant(), stack.proxy, stack.store
    archive = large_archive()
    for fault, after in faults:
        domain = caller.post("/v1/domains", {"name": f"{fault} {after}"})["id"]
        proxy.strike(fault, after)
        sent = time.monotonic()
        answer = caller.send("POST", f"/v1/domains/{domain}/datasets", files={"file": ("set.zip", archive)})
        slowest = max(slowest, time.monotonic() - sent)
        proxy.mend()
        refused = answer.status_code == 503 and answer.json()["code"] == "storage_unavailable"
        unseen = not caller.get(f"/v1/domains/{domain}/datasets")["data"]
        hidden = not [key for key in store.list("") if domain in key]
        for _ in range(3):  # as clients do after a 503
            again = caller.send("POST", f"/v1/domains/{domain}/datasets", files={"file": ("set.zip", archive)})
            if again.status_code != 503:
                break
        whole = again.status_code == 202 and _ready(caller, again.json()["id"])
        held += refused and unseen and hidden and whole
        if not (refused and unseen and hidden and whole):
            failed.append(
                f"{fault} after {after}: refused {refused}, unseen {unseen}, hidden {hidden}, again {again.text}"
            )
    parts = until(lambda: not store.client.list_multipart_uploads(Bucket=store.bucket).get("Uploads"), seconds=180)
    lost = sum(row["status"] != "ready" for row in stack.rows("SELECT status FROM datasets"))
    note = "; ".join(
        [*failed, f"on {stack.server}; refused after {slowest:.1f} s at most; abandoned parts gone {parts:.0f} s later"]
    )
    must = "503 with its code, nothing partial visible, accepted when the store is back"
    return Outcome("storage refused, reset or frozen", must, len(faults), held, lost, time.monotonic() - started, note)


def images_wait(stack: StackOnS3, jobs: int) -> Outcome:
    """Requests generations while the store is unreachable; they must wait for it and succeed."""
    started = time.monotonic()
    caller, domain, _ = prepared(stack)
    stack.proxy.strike("refused", 0)
    body = {"class_id": 0, "steps": 2, "adapter_id": "base"}
    sent = [str(caller.post(f"/v1/domains/{domain}/generations", body)["id"]) for _ in range(jobs)]
    time.sleep(5)
    stack.proxy.mend()
    until(lambda: all(ended(stack, "generations", id) for id in sent))
    generations = [caller.get(f"/v1/generations/{id}") for id in sent]
    good = sum(generation["status"] == "succeeded" for generation in generations)
    must = "all succeed when the store is back"
    note = f"on {stack.server}; " + ", ".join(sorted({generation["status"] for generation in generations}))
    seconds = time.monotonic() - started
    return Outcome("storage unreachable during generations", must, jobs, good, jobs - good, seconds, note)


def flipped_byte(stack: Stack, times: int) -> Outcome:
    """Changes one byte of a stored adapter before any worker has loaded it."""
    started, held, lost = time.monotonic(), 0, 0
    caller, domain, dataset = prepared(stack)
    store = FolderStore(stack.folder / "data" / "objects")
    other = caller.post("/v1/domains", {"name": "another"})["id"]
    for number in range(times):
        finetune = start_finetune(caller, domain, dataset, steps=1 + number)
        until(lambda: ended(stack, "finetunes", finetune))  # noqa: B023  # called at once
        adapter = str(caller.get(f"/v1/finetunes/{finetune}")["adapter_id"])
        (row,) = stack.rows("SELECT object_key FROM adapters WHERE id = %s", adapter)
        path = store.root / row["object_key"]
        good = path.read_bytes()
        offset = len(good) * (number + 1) // (times + 1)
        path.write_bytes(good[:offset] + bytes([good[offset] ^ 1]) + good[offset + 1 :])
        drawn = _drawn(stack, caller, domain, adapter)
        refused = drawn["status"] == "failed" and drawn["error"]["code"] == "checksum_mismatch"
        quarantined = caller.get(f"/v1/adapters/{adapter}")["status"] == "quarantined"
        held += refused and quarantined
        lost += _drawn(stack, caller, other, "base")["status"] != "succeeded"
    must = "refused with checksum_mismatch and quarantined; other adapters work"
    return Outcome("one byte of an adapter flipped", must, times, held, lost, time.monotonic() - started)


def large_archive() -> bytes:
    """Returns a valid data set of more than one part: drawings, and a file of 20 MiB that is no image."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for path in sorted((sample_domain_folder() / "fruit").glob("*.png"))[:8]:
            archive.write(path, f"fruit/{path.name}")
        archive.writestr("fruit/noise.bin", os.urandom(20 * MEBIBYTE))
    return buffer.getvalue()


def _ready(caller: Caller, id: str) -> bool:
    return bool(caller.wait(f"/v1/datasets/{id}", "validating")["status"] == "ready")


def _drawn(stack: Stack, caller: Caller, domain: str, adapter: str) -> dict[str, object]:
    body = {"class_id": 0, "steps": 2, "adapter_id": adapter}
    id = str(caller.post(f"/v1/domains/{domain}/generations", body)["id"])
    until(lambda: ended(stack, "generations", id))
    generation: dict[str, object] = caller.get(f"/v1/generations/{id}")
    return generation
