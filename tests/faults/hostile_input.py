"""Hostile files, sent to a real API and decoded by a real worker while their memory and disk are watched."""

import time
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from pathlib import Path

import psutil

from core.service.storage import FolderStore
from tests.faults.hostile.adapters import ADAPTERS
from tests.faults.hostile.images import IMAGES
from tests.faults.hostile.zips import CANARY, GOOD, ZIPS, Entry, zip_of
from tests.faults.stack import Outcome, Stack, until
from tests.faults.workers import ended, prepared, start_finetune
from tests.processes import Caller

ANSWERED_WITHIN = 5.0
MEMORY = 100_000_000
MUST = "refused with 4xx or a code within 5 s; at most 100 MB more memory; nothing written outside"


class Watch:
    """Watch on the API and the worker while they process hostile files."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.store = FolderStore(stack.folder / "data" / "objects")
        self.processes = [psutil.Process(pid) for pid in stack.workers] + [api_of(stack)]
        self.slowest = self.max_grown = 0.0
        self.late = 0
        self.failed: list[str] = []
        self._before = self._everything()

    def check(self, name: str, send: Callable[[], str | None]) -> None:
        """Sends one file; `send` returns an error text if it was handled wrongly."""
        before = [peak_from_now(process) for process in self.processes]
        started = time.monotonic()
        wrong = send()
        seconds = time.monotonic() - started
        grown = sum(peak(process) - own for process, own in zip(self.processes, before, strict=True))
        self.slowest, self.max_grown = max(self.slowest, seconds), max(self.max_grown, grown)
        self.late += seconds > ANSWERED_WITHIN
        if grown > MEMORY:
            wrong = f"{grown / 1e6:.0f} MB more memory; {wrong or 'refused'}"
        if wrong:
            self.failed.append(f"{name}: {wrong}")

    def outside(self, expected: tuple[str, ...]) -> list[str]:
        """Returns files and store keys that should not exist, and dead processes. `expected` are the folders of
        accepted uploads."""
        written = {name for name in self._everything() - self._before if not name.startswith(expected)}
        escaped = list(self.stack.folder.rglob(f"{CANARY}*"))
        for folder in (Path.cwd(), Path("/tmp"), Path("/")):
            escaped += folder.glob(f"{CANARY}*")
        dead = [process.pid for process in self.processes if not process.is_running()]
        return [str(problem) for problem in (*written, *escaped, *dead)]

    def _everything(self) -> set[str]:
        """Returns the keys in the store and the names in the processes' temporary folder."""
        objects = {stored.key for stored in self.store.page("", "", 100_000)}
        return objects | {str(path) for path in (self.stack.folder / "tmp").iterdir()}

    def outcome(self, fault: str, tried: int, lost: Sequence[str], seconds: float) -> Outcome:
        note = f"at most {self.slowest:.1f} s and {self.max_grown / 1e6:.0f} MB more memory"
        held = tried - len(self.failed)
        notes = "; ".join([*self.failed, *lost, note])
        return Outcome(fault, MUST, tried, held, len(lost), seconds, notes, self.late)


def zips(stack: Stack, every: int) -> Outcome:
    """Sends each hostile zip with two good images, which may be used."""
    return _data_sets(stack, "hostile zips", dict(islice(ZIPS.items(), 0, None, every)))


def images(stack: Stack, every: int) -> Outcome:
    """Sends each hostile image as the third file of a good zip."""
    chosen = islice(IMAGES.items(), 0, None, every)
    zips = {name: _zipped(make) for name, make in chosen}
    return _data_sets(stack, "hostile images", zips)


def adapters(stack: Stack, every: int) -> Outcome:
    """Sends each hostile variant of a good adapter; the good one must still be accepted afterwards."""
    started = time.monotonic()
    caller, domain, dataset = prepared(stack)
    finetune = start_finetune(caller, domain, dataset, steps=1)
    until(lambda: ended(stack, "finetunes", finetune))
    (adapter,) = caller.get(f"/v1/domains/{domain}/adapters")["data"]
    good = caller.send("GET", f"/v1/adapters/{adapter['id']}/download").content
    watch, path = Watch(stack), f"/v1/domains/{domain}/adapters"
    chosen = dict(islice(ADAPTERS.items(), 0, None, every))
    for name, make in chosen.items():
        data = make(good)
        watch.check(name, lambda: _refused(caller, path, data))  # noqa: B023  # called at once
    lost = watch.outside(())
    listed = caller.get(path)["data"]
    lost += [row["id"] for row in listed if row["id"] != adapter["id"]]
    if caller.send("POST", path, files={"file": ("a.safetensors", good)}).status_code != 201:
        lost.append("a good file is no longer accepted")
    return watch.outcome(f"{len(chosen)} hostile adapters", len(chosen), lost, time.monotonic() - started)


def _data_sets(stack: Stack, kind: str, chosen: Mapping[str, Callable[[], bytes]]) -> Outcome:
    started = time.monotonic()
    caller = stack.tenant()
    domain = caller.post("/v1/domains", {"name": kind})["id"]
    watch, path = Watch(stack), f"/v1/domains/{domain}/datasets"
    _whole(caller, path)  # warm-up: one-time loading is not counted
    for name, make in chosen.items():
        data = make()
        watch.check(name, lambda: _refused(caller, path, data))  # noqa: B023  # called at once
    rows = stack.rows("SELECT archive_key FROM datasets")
    lost = watch.outside(tuple(row["archive_key"].removesuffix("archive.zip") for row in rows))
    if not _whole(caller, path):
        lost.append("a good file is no longer accepted")
    return watch.outcome(f"{len(chosen)} {kind}", len(chosen), lost, time.monotonic() - started)


def _refused(caller: Caller, path: str, data: bytes) -> str | None:
    """Returns None if the file, or all of it except the two good images, was refused with a code; else the problem."""
    answer = caller.send("POST", path, files={"file": ("hostile", data)})
    if answer.status_code != 202:
        has_code = 400 <= answer.status_code < 500 and answer.json().get("code")
        return None if has_code else f"answered {answer.status_code} {answer.text[:200]}"
    while (dataset := caller.get(f"/v1/datasets/{answer.json()['id']}"))["status"] == "validating":
        time.sleep(0.05)
    if dataset["status"] == "rejected":
        return None if dataset["error"]["code"] != "internal_error" else f"rejected with {dataset['error']}"
    refused = [file for file in dataset["report"]["rejected"] if file["code"]]
    right = dataset["images"] <= len(GOOD) and refused
    return None if right else f"accepted: {dataset['report']}, {dataset['classes']}"


def _whole(caller: Caller, path: str) -> bool:
    answer = caller.send("POST", path, files={"file": ("good.zip", zip_of())})
    return bool(caller.wait(f"/v1/datasets/{answer.json()['id']}", "validating")["status"] == "ready")


def _zipped(make: Callable[[], bytes]) -> Callable[[], bytes]:
    return lambda: zip_of(Entry(b"cat/hostile.png", make()))


def api_of(stack: Stack) -> psutil.Process:
    folder = stack.environment["DIFFFIT_DATA_DIR"]
    for process in psutil.Process().children():
        if process.cmdline()[-2:] == ["-m", "api"] and process.environ().get("DIFFFIT_DATA_DIR") == folder:
            return process
    raise LookupError("the API's process")


def peak_from_now(process: psutil.Process) -> int:
    """Resets the peak memory of a process and returns its current memory in bytes."""
    Path(f"/proc/{process.pid}/clear_refs").write_text("5")
    return int(process.memory_info().rss)


def peak(process: psutil.Process) -> int:
    for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024
    raise LookupError("VmHWM")
