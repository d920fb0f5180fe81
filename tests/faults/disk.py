"""A disk that is full when a fine-tune writes its checkpoint."""

import os
import resource
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from core.service.storage import FolderStore
from tests.faults.stack import Outcome, Stack, until
from tests.faults.workers import ended, prepared, start_finetune
from tests.processes import Caller

STEPS = 110
"""Steps of a fine-tune with two checkpoints, after 50 and 100; the disk is full at the second one."""
_DISK_BYTES = 2**26
_PAGE = 2**12


class Disk(Protocol):
    def fill(self) -> None: ...

    def free(self) -> None: ...


class MountedDisk:
    """Small separate file system: a write to the full disk fails with ENOSPC."""

    def __init__(self, root: Path) -> None:
        self.root, self._filler = root, root / "filler"

    def fill(self) -> None:
        with self._filler.open("wb", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(_PAGE))
            except OSError:
                return

    def free(self) -> None:
        self._filler.unlink()


class LimitedWorkers:
    """Workers that cannot write a file larger than a page, for machines where mounting is not permitted. A larger write
    fails with EFBIG."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack

    def fill(self) -> None:
        self._limit(_PAGE)

    def free(self) -> None:
        self._limit(resource.RLIM_INFINITY)

    def _limit(self, size: int) -> None:
        for pid in self.stack.workers:
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


@contextmanager
def small_disk(root: Path) -> Iterator[MountedDisk | None]:
    """Yields a small mounted disk, or None where it may not be mounted."""
    root.mkdir(parents=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={_DISK_BYTES}", "none", str(root)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode:
        yield None
        return
    try:
        yield MountedDisk(root)
    finally:
        subprocess.run(["umount", "--lazy", str(root)], check=True)


def disk_full(stack: Stack, disk: Disk, *, times: int, in_full: bool) -> Outcome:
    """Fills the disk after the first checkpoint of a fine-tune, and frees it once the fine-tune has reported why it
    waits. With `in_full`, the disk also stays full once, and the files are compared with those of an undisturbed run.

    Held: the last good checkpoint is readable, and the reason is reported. Lost: a fine-tune that did not continue from
    there to the same file as the undisturbed one, or did not fail with the reason while the disk stayed full.
    """
    started, held, lost = time.monotonic(), 0, 0
    caller, domain, dataset = prepared(stack)
    files = {_run(stack, caller, domain, dataset)} if in_full else set()
    for _ in range(times):
        id = _interrupted(stack, disk, caller, domain, dataset)
        held += _has_reported(stack, id) and _is_checkpoint_readable(stack, id)
        disk.free()
        until(lambda: ended(stack, "finetunes", id))  # noqa: B023  # called at once
        files.add(_sha256(caller, id))
        lost += not (_first_step_after_the_error(stack, id) > 50 and len(files) == 1 and "" not in files)
    if in_full:
        id = _interrupted(stack, disk, caller, domain, dataset)
        until(lambda: ended(stack, "finetunes", id))
        ended_finetune = caller.get(f"/v1/finetunes/{id}")
        held += _has_reported(stack, id) and _is_checkpoint_readable(stack, id)
        lost += (ended_finetune["status"], (ended_finetune["error"] or {}).get("code")) != ("failed", "storage_full")
        disk.free()
    must = "the last good checkpoint is kept; the job reports the reason and continues from there"
    note = "on a separate file system" if isinstance(disk, MountedDisk) else "with a limit on file sizes"
    return Outcome("disk full at a checkpoint", must, times + in_full, held, lost, time.monotonic() - started, note)


def _interrupted(stack: Stack, disk: Disk, caller: Caller, domain: str, dataset: str) -> str:
    id = start_finetune(caller, domain, dataset, STEPS)
    until(lambda: _row(stack, id)["checkpoint_step"])
    disk.fill()
    until(lambda: _has_reported(stack, id) or ended(stack, "finetunes", id))
    return id


def _run(stack: Stack, caller: Caller, domain: str, dataset: str) -> str:
    id = start_finetune(caller, domain, dataset, STEPS)
    until(lambda: ended(stack, "finetunes", id))
    return _sha256(caller, id)


def _row(stack: Stack, id: str) -> dict[str, object]:
    return stack.rows("SELECT * FROM finetunes WHERE id = %s", id)[0]


def _has_reported(stack: Stack, id: str) -> bool:
    query = "SELECT data FROM finetune_events WHERE finetune_id = %s AND type = 'error' ORDER BY id LIMIT 1"
    return [row["data"]["code"] for row in stack.rows(query, id)] == ["storage_full"]


def _is_checkpoint_readable(stack: Stack, id: str) -> bool:
    """Returns whether the checkpoint can be read by its digest, as a worker reads it."""
    row = _row(stack, id)
    store = FolderStore(Path(stack.environment["DIFFFIT_STORAGE_URL"].removeprefix("file://")))
    return row["checkpoint_step"] == 50 and bool(store.get(str(row["checkpoint_key"]), str(row["checkpoint_sha256"])))


def _first_step_after_the_error(stack: Stack, id: str) -> int:
    """Returns the first step that was reported after the error."""
    query = """SELECT (data->>'step')::int AS step FROM finetune_events WHERE finetune_id = %s AND type = 'progress'
        AND id > (SELECT max(id) FROM finetune_events WHERE finetune_id = %s AND type = 'error') ORDER BY id LIMIT 1"""
    events = stack.rows(query, id, id)
    return int(events[0]["step"]) if events else 0


def _sha256(caller: Caller, id: str) -> str:
    adapter = caller.get(f"/v1/finetunes/{id}")["adapter_id"]
    return str(caller.get(f"/v1/adapters/{adapter}")["sha256"]) if adapter else ""
