"""Workers that are killed, or paused past their lease."""

import io
import signal
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from functools import partial

from PIL import Image

from core.service.storage import FolderStore
from tests.faults.stack import Outcome, Stack, until
from tests.processes import Caller
from tests.test_main_job import upload

STEPS = 60
GENERATION = {"class_id": 0, "count": 2, "seed": 11, "steps": 50, "adapter_id": "base"}
ENDED = {"succeeded", "failed", "cancelled"}
TABLES = ("generations", "finetunes")


class Jobs:
    """Generations and fine-tunes of one tenant, equal within each kind, so that their results are equal."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.caller, self.domain, dataset = prepared(stack)
        self._start: dict[str, Callable[[], str]] = {
            "generations": partial(start_generation, self.caller, self.domain),
            "finetunes": partial(start_finetune, self.caller, self.domain, dataset),
        }
        self.ids: dict[str, list[str]] = {table: [] for table in TABLES}
        self._takes: dict[str, float] = {}

    def start(self, table: str) -> str:
        """Starts a job and returns its id once a worker has it or it has ended; earlier jobs have ended. A job that is
        lost three times without progress fails by design, so each job is struck once."""
        until(self._all_ended)
        if table not in self._takes:
            first = self._start_and_claim(table)
            self._takes[table] = until(lambda: ended(self.stack, table, first))
        return self._start_and_claim(table)

    def moment(self, table: str, fraction: float) -> None:
        """Waits for a fraction of the time that the first, undisturbed job took."""
        time.sleep(fraction * self._takes[table])

    def lost(self) -> int:
        """Returns the number of jobs that did not succeed with exactly one version and equal files, or equal images."""
        until(self._all_ended)
        whole = whole_versions(self.stack, self.ids["finetunes"]) + whole_images(self.caller, self.ids["generations"])
        return sum(len(ids) for ids in self.ids.values()) - whole

    def failures(self) -> dict[str, int]:
        """Returns the number of failed jobs by error code."""
        results = [self.stack.rows(f"SELECT error_code FROM {table} WHERE status = 'failed'") for table in TABLES]
        return dict(Counter(row["error_code"] for rows in results for row in rows))

    def _all_ended(self) -> bool:
        return all(ended(self.stack, table, id) for table, ids in self.ids.items() for id in ids)

    def _start_and_claim(self, table: str) -> str:
        self.ids[table].append(id := self._start[table]())
        until(lambda: self.stack.holder(table, id) or ended(self.stack, table, id))
        return id


def kills(stack: Stack, points: int, spare: int = 0) -> Outcome:
    """Kills a worker at a random moment of a fine-tune or generation, and replaces it; there are at least two workers.
    With `spare` workers no job waits for the replacement. An interrupt ends the run early.

    Held: another worker continued the job, or it had ended at that very moment. Late: after more than one and a half
    leases. Lost: a job that did not succeed with exactly one version and equal files, or equal images.
    """
    started, chance = time.monotonic(), stack.chance()
    jobs, taken, in_work = Jobs(stack), list[float](), 0
    for _ in range(spare):
        stack.add_worker()
    with suppress(KeyboardInterrupt):
        for point in range(points):
            table = TABLES[point % 2]
            until(lambda: len(alive(stack)) >= 2)
            id = jobs.start(table)
            jobs.moment(table, chance.random())
            pid = stack.holder(table, id)
            attempt = stack.rows(f"SELECT attempt FROM {table} WHERE id = %s", id)[0]["attempt"]
            in_work += pid is not None
            if pid is None:
                pid = chance.choice(sorted(alive(stack)))  # the job has just ended: the kill must not undo it
            stack.kill_worker(pid)
            stack.add_worker()
            taken.append(until(lambda: continued(stack, table, id, attempt)))  # noqa: B023  # called at once
    lost, late = jobs.lost(), sum(seconds > 1.5 * stack.lease for seconds in taken)
    note = f"{in_work} killed during a job; continued after {max(taken):.1f} s at most"
    note += f"; failed: {failures}" if (failures := jobs.failures()) else ""
    must = f"all succeed with one version each and equal bytes; continued within 1.5 leases of {stack.lease:.0f} s"
    return Outcome("SIGKILL of a worker", must, len(taken), len(taken), lost, time.monotonic() - started, note, late)


def pauses(stack: Stack, times: int) -> Outcome:
    """Stops the worker of a job past its lease at a random moment, lets another one end the job, and wakes the first
    one.

    Held: the paused worker changed nothing in the database, and the objects that it stored were deleted.
    """
    started, chance, held, tried = time.monotonic(), stack.chance(), 0, 0
    jobs, store = Jobs(stack), FolderStore(stack.folder / "data" / "objects")
    while tried < times:
        table = TABLES[tried % 2]
        id = jobs.start(table)
        jobs.moment(table, chance.uniform(0, 0.8))
        sleeper = stack.holder(table, id)
        if sleeper is None:
            continue  # the job has already ended: try another one
        tried += 1
        stack.workers[sleeper].send_signal(signal.SIGSTOP)
        until(lambda: ended(stack, table, id))  # noqa: B023  # called at once
        before = row(stack, table, id)
        stack.workers[sleeper].send_signal(signal.SIGCONT)
        time.sleep(stack.lease)
        until(lambda: not unreferenced_objects(stack, store, id), seconds=60)  # noqa: B023
        held += row(stack, table, id) == before and before["status"] == "succeeded"
    must = "the stale attempt changes no database row; its objects are deleted"
    return Outcome("SIGSTOP past the lease, SIGCONT", must, times, held, jobs.lost(), time.monotonic() - started)


def prepared(stack: Stack) -> tuple[Caller, str, str]:
    """Returns a tenant, a domain and a data set that is ready."""
    caller = stack.tenant()
    domain = caller.post("/v1/domains", {"name": "OpenMoji"})["id"]
    dataset = caller.wait(f"/v1/datasets/{upload(caller, domain)['id']}", "validating")
    return caller, domain, dataset["id"]


def start_finetune(caller: Caller, domain: str, dataset: str, steps: int = STEPS) -> str:
    body = {"dataset_id": dataset, "steps": steps, "batch_size": 2, "preset": "literal"}
    return str(caller.post(f"/v1/domains/{domain}/finetunes", body)["id"])


def start_generation(caller: Caller, domain: str) -> str:
    return str(caller.post(f"/v1/domains/{domain}/generations", GENERATION)["id"])


def ended(stack: Stack, table: str, id: str) -> bool:
    return stack.rows(f"SELECT status FROM {table} WHERE id = %s", id)[0]["status"] in ENDED


def continued(stack: Stack, table: str, id: str, attempt: int) -> bool:
    return (
        ended(stack, table, id) or stack.rows(f"SELECT attempt FROM {table} WHERE id = %s", id)[0]["attempt"] > attempt
    )


def alive(stack: Stack) -> set[int]:
    """Returns the workers that run and have reported themselves."""
    return {row["pid"] for row in stack.rows("SELECT pid FROM workers")} & set(stack.workers)


def row(stack: Stack, table: str, id: str) -> dict[str, object]:
    """Returns everything about a job that a stale attempt could change."""
    (job_row,) = stack.rows(f"SELECT * FROM {table} WHERE id = %s", id)
    parts = {
        "generations": ("generation_images", "generation_previews"),
        "finetunes": ("finetune_events", "adapters"),
    }[table]
    return job_row | {
        part: stack.rows(f"SELECT * FROM {part} WHERE {table[:-1]}_id = %s ORDER BY 1, 2", id) for part in parts
    }


def unreferenced_objects(stack: Stack, store: FolderStore, id: str) -> list[str]:
    """Returns the objects of a job that no database row references."""
    query = """SELECT object_key AS key FROM generation_images WHERE generation_id = %s
        UNION SELECT object_key FROM generation_previews WHERE generation_id = %s
        UNION SELECT object_key FROM adapters WHERE finetune_id = %s
        UNION SELECT checkpoint_key FROM finetunes WHERE id = %s
        UNION SELECT data->>'key' FROM finetune_events WHERE finetune_id = %s"""
    referenced = {row["key"] for row in stack.rows(query, *[id] * 5)}
    return [key for key in store.list("") if f"/{id}/" in key and key not in referenced]


def whole_versions(stack: Stack, ids: list[str]) -> int:
    """Returns the number of fine-tunes that succeeded with one version and the most frequent file."""
    query = "SELECT a.sha256 FROM adapters a JOIN finetunes f ON a.finetune_id = f.id WHERE f.id = %s AND f.status = %s"
    versions = [stack.rows(query, id, "succeeded") for id in ids]
    files = [rows[0]["sha256"] for rows in versions if len(rows) == 1]
    return max((files.count(file) for file in files), default=0)


def whole_images(caller: Caller, ids: list[str]) -> int:
    """Returns the number of generations that succeeded with all images, equal to the most frequent ones."""
    images = []
    for id in ids:
        generation = caller.get(f"/v1/generations/{id}")
        if generation["status"] == "succeeded":
            files = [caller.send("GET", f"/v1/generations/{id}/images/{n}").content for n in range(GENERATION["count"])]
            images.append(b"".join(Image.open(io.BytesIO(file)).tobytes() for file in files))
    return max((images.count(image) for image in images), default=0)
