"""Workers that are killed, or that sleep through their lease."""

import io
import random
import signal
import time

from PIL import Image

from core.storage import FolderStore
from tests.faults.stack import LEASE, Outcome, Stack, until
from tests.processes import Caller
from tests.test_main_job import upload

STEPS = 60
GENERATION = {"class_id": 0, "count": 2, "seed": 11, "steps": 50}
ENDED = {"succeeded", "failed", "cancelled"}


def kills(stack: Stack, points: int) -> Outcome:
    """One of two workers is killed while it works, at a random moment of a fine-tune or of a generation, and replaced.

    Held: the row was taken up again, or had ended in that very moment; late: after more than one and a half leases.
    Lost: what did not end well, with exactly one version, the same file each, and the same pictures each.
    """
    started, chance = time.monotonic(), random.Random(0)
    caller, domain, dataset = prepared(stack)
    finetunes, generations, taken = [], [], list[float]()
    for point in range(points):
        if point % 2:
            table, id = "finetunes", start_finetune(caller, domain, dataset)
            finetunes.append(id)
        else:
            body = GENERATION | {"adapter_id": "base"}
            table, id = "generations", str(caller.post(f"/v1/domains/{domain}/generations", body)["id"])
            generations.append(id)
        until(lambda: stack.holder(table, id) or ended(stack, table, id))  # noqa: B023  # called at once
        time.sleep(chance.uniform(0, 6))
        pid = stack.holder(table, id)
        attempt = stack.rows(f"SELECT attempt FROM {table} WHERE id = %s", id)[0]["attempt"]
        if pid is None:
            pid = chance.choice(list(stack.workers))  # it has just ended: the kill must not undo it
        stack.kill_worker(pid)
        taken.append(until(lambda: taken_up(stack, table, id, attempt)))  # noqa: B023
        stack.add_worker()
        until(lambda: len(alive(stack)) == 2)
    for table, ids in (("finetunes", finetunes), ("generations", generations)):
        until(lambda: all(ended(stack, table, id) for id in ids))  # noqa: B023
    lost = len(finetunes) - whole_versions(stack, finetunes) + len(generations) - whole_images(caller, generations)
    note, late = f"taken up after {max(taken):.1f} s at most", sum(one > 1.5 * LEASE for one in taken)
    must = f"all end, one version each, the same bytes; taken up within 1.5 leases of {LEASE:.0f} s"
    return Outcome("SIGKILL of a worker", must, points, len(taken), lost, time.monotonic() - started, note, late)


def pauses(stack: Stack, times: int) -> Outcome:
    """The worker that draws is stopped past its lease, another one ends the row, and the first one wakes up.

    Held: the sleeper changed nothing of the row, and what it stored was swept.
    """
    started, held, lost = time.monotonic(), 0, 0
    caller, domain, _ = prepared(stack)
    store = FolderStore(stack.folder / "data" / "objects")
    for _ in range(times):
        body = GENERATION | {"adapter_id": "base"}
        id = str(caller.post(f"/v1/domains/{domain}/generations", body)["id"])
        until(lambda: stack.holder("generations", id))  # noqa: B023
        time.sleep(1)
        sleeper = stack.holder("generations", id)
        if sleeper is None:  # it was too quick
            continue
        stack.workers[sleeper].send_signal(signal.SIGSTOP)
        until(lambda: ended(stack, "generations", id))  # noqa: B023
        before = row(stack, id)
        stack.workers[sleeper].send_signal(signal.SIGCONT)
        folder = f"generations/{id}/{before['attempt']}/"
        until(lambda: not strangers(store, id, folder), seconds=60)  # noqa: B023
        time.sleep(LEASE)
        unchanged = row(stack, id) == before and before["status"] == "succeeded" and not strangers(store, id, folder)
        held, lost = held + unchanged, lost + (whole_images(caller, [id]) != 1)
    must = "the stale attempt changes 0 rows, its objects are swept"
    return Outcome("SIGSTOP past the lease, SIGCONT", must, times, held, lost, time.monotonic() - started)


def prepared(stack: Stack) -> tuple[Caller, str, str]:
    """A tenant, a domain and a data set that is ready."""
    caller = stack.tenant()
    domain = caller.post("/v1/domains", {"name": "OpenMoji"})["id"]
    dataset = caller.wait(f"/v1/datasets/{upload(caller, domain)['id']}", "validating")
    return caller, domain, dataset["id"]


def start_finetune(caller: Caller, domain: str, dataset: str, steps: int = STEPS) -> str:
    body = {"dataset_id": dataset, "steps": steps, "batch_size": 2, "preset": "literal"}
    return str(caller.post(f"/v1/domains/{domain}/finetunes", body)["id"])


def ended(stack: Stack, table: str, id: str) -> bool:
    return stack.rows(f"SELECT status FROM {table} WHERE id = %s", id)[0]["status"] in ENDED


def taken_up(stack: Stack, table: str, id: str, attempt: int) -> bool:
    return (
        ended(stack, table, id) or stack.rows(f"SELECT attempt FROM {table} WHERE id = %s", id)[0]["attempt"] > attempt
    )


def alive(stack: Stack) -> set[int]:
    """Workers that run and have told so."""
    return {row["pid"] for row in stack.rows("SELECT pid FROM workers")} & set(stack.workers)


def row(stack: Stack, id: str) -> dict[str, object]:
    """Of a generation, all that a stale attempt could change."""
    (found,) = stack.rows("SELECT * FROM generations WHERE id = %s", id)
    images = stack.rows('SELECT * FROM generation_images WHERE generation_id = %s ORDER BY "index"', id)
    return {**found, "images": images}


def strangers(store: FolderStore, id: str, folder: str) -> list[str]:
    """Objects of a generation that are not of the attempt that ended it."""
    return [key for key in store.list("") if f"generations/{id}/" in key and folder not in key]


def whole_versions(stack: Stack, ids: list[str]) -> int:
    """How many fine-tunes succeeded with one version, whose file is like that of most."""
    query = "SELECT a.sha256 FROM adapters a JOIN finetunes f ON a.finetune_id = f.id WHERE f.id = %s AND f.status = %s"
    versions = [stack.rows(query, id, "succeeded") for id in ids]
    files = [found[0]["sha256"] for found in versions if len(found) == 1]
    return max((files.count(file) for file in files), default=0)


def whole_images(caller: Caller, ids: list[str]) -> int:
    """How many generations succeeded with all their images, which look like those of most."""
    drawn = []
    for id in ids:
        found = caller.get(f"/v1/generations/{id}")
        if found["status"] == "succeeded":
            files = [caller.send("GET", f"/v1/generations/{id}/images/{n}").content for n in range(GENERATION["count"])]
            drawn.append(b"".join(Image.open(io.BytesIO(file)).tobytes() for file in files))
    return max((drawn.count(one) for one in drawn), default=0)
