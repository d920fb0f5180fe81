"""Attacks by many clients and by clients without a key, while memory and disk of the API and a worker are measured."""

import io
import socket
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, closing
from os import urandom
from typing import Self
from urllib.parse import urlparse

import httpx
import psutil
from PIL import Image

from core.service.config import UPLOAD_FORM_BYTES, Settings
from tests.api.test_strangers import FILE_FORM, FILE_START, answer, head, nameless_bytes, pour
from tests.faults.hostile.zips import deflated, zip_of
from tests.faults.hostile_input import api_of, peak, peak_from_now
from tests.faults.stack import Outcome, Stack, until
from tests.faults.workers import ended, prepared, start_finetune
from tests.processes import Caller

MIB = 2**20
MEMORY, DISK = 50 * MIB, 32 * MIB
"""Maximum bytes that an attack may add to a process."""
UPLOADS_MEMORY = 128 * MIB
LARGE_SIDE = 7070
"""Side in pixels of a square image with the maximum number of pixels."""
TENANTS, ZIPS = 10, 5


class Meter(AbstractContextManager["Meter"]):
    """Peak use of the API and the workers of a stack while it is open, beyond what they used before."""

    def __init__(self, stack: Stack) -> None:
        self.folder = stack.folder / "tmp"
        self.processes = [api_of(stack), *map(psutil.Process, stack.workers)]
        self.memory = self.disk = 0
        """Peak bytes: memory of the largest process; temporary files of all of them."""

    def __enter__(self) -> Self:
        self._before = [peak_from_now(process) for process in self.processes]
        self._disk_before = self._files()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        peaks = zip(self.processes, self._before, strict=True)
        self.memory = max(peak(process) - before for process, before in peaks)

    def _watch(self) -> None:
        while not self._ended.wait(0.01):
            self.disk = max(self.disk, self._files() - self._disk_before)

    def _files(self) -> int:
        """Returns the bytes of temporary files, unlinked ones included."""
        sizes = (path.stat().st_size for path in self.folder.rglob("*") if path.is_file())
        return sum(sizes) + sum(nameless_bytes(process.pid) for process in self.processes)


def strangers_attack(stack: Stack, connections: int) -> Outcome:
    """Sends bodies without a key, opens connections that stay silent or half sent, and uploads small zips with images
    of 50 megapixels, which are validated, shown and trained on.

    Held: an attack that stays within the limits of memory and disk.
    """
    started = time.monotonic()
    caller, domain, _ = prepared(stack)
    httpx.get(f"{stack.url}/dashboard/sign-in")
    _train(stack, caller, domain, _upload(caller, domain, zip_of()))  # warm-up: one-time loading is not counted
    datasets = list[str]()
    attacks: dict[str, Callable[[], None]] = {
        "PATCH": lambda: _pour(stack, "PATCH /v1/webhooks/x", "multipart/x", 512 * MIB),
        "sign-in": lambda: _pour(stack, "POST /dashboard/session", FILE_FORM, 513 * MIB),
        f"{connections} connections": lambda: _hold(stack, connections),
        f"{ZIPS} zips": lambda: datasets.extend(_upload(caller, domain, _small_zip())),
        "training on one": lambda: _train(stack, caller, domain, datasets),
    }
    notes, held = [], 0
    for name, attack in attacks.items():
        with Meter(stack) as meter:
            attack()
        held += meter.memory <= MEMORY and meter.disk <= DISK
        notes.append(f"{name}: {meter.memory / MIB:.0f} MiB of memory, {meter.disk / MIB:.0f} of disk")
    lost = int(caller.send("GET", "/v1/domains").status_code != 200) + len(attacks) - held
    return Outcome(
        "clients without a key, and zips of some hundred bytes",
        f"at most {MEMORY / MIB:.0f} MiB more memory of the API or the worker and {DISK / MIB:.0f} MiB of disk",
        len(attacks),
        held,
        lost,
        time.monotonic() - started,
        "; ".join(notes),
    )


def many_upload(stack: Stack, uploads: int, size: int) -> Outcome:
    """Sends many uploads at once by ten tenants, and each again when its response says so.

    Held: an upload that is accepted in the end, after no response but 429 and 503 with Retry-After.
    """
    started, settings = time.monotonic(), Settings()
    callers = [(caller, domain) for caller, domain, _ in (prepared(stack) for _ in range(min(TENANTS, uploads)))]
    zipped = zip_of(deflated(b"cat/noise.bin", urandom(size)))
    limit = min(settings.max_transfers * (len(zipped) + UPLOAD_FORM_BYTES), settings.max_spooled_bytes)
    with ThreadPoolExecutor(uploads) as pool, Meter(stack) as meter:
        answers = list(pool.map(lambda index: _patient(stack, *callers[index % len(callers)], zipped), range(uploads)))
    taken = sum(codes[-1] == 202 and set(codes) <= {202, 429, 503} for codes in answers)
    rows = stack.rows("SELECT count(*) AS n FROM datasets WHERE status IN ('validating', 'ready')")
    lost = max(0, taken + len(callers) - int(rows[0]["n"]))
    refused = [code for codes in answers for code in codes[:-1]]
    in_bounds = meter.disk <= limit and meter.memory <= UPLOADS_MEMORY
    note = f"{refused.count(429)} times 429, {refused.count(503)} times 503, at most {max(map(len, answers))} tries; "
    note += f"at most {meter.memory / MIB:.0f} MiB more memory and {meter.disk / MIB:.0f} MiB of temporary files"
    return Outcome(
        f"{uploads} uploads of {size / MIB:.0f} MiB at once",
        f"all are accepted, some of them later; at most {UPLOADS_MEMORY / MIB:.0f} MiB more memory of the API or the "
        f"worker and {limit / MIB:.0f} MiB of disk",
        uploads + 1,
        taken + in_bounds,
        lost,
        time.monotonic() - started,
        note,
    )


def _patient(stack: Stack, caller: Caller, domain: str, zipped: bytes) -> list[int]:
    """Returns the statuses of all responses until the upload was accepted; 0 for no response or a missing
    Retry-After."""
    codes = list[int]()
    while True:
        try:
            with httpx.Client(base_url=stack.url, timeout=120) as http:
                files = {"file": ("set.zip", zipped)}
                response = Caller(http, caller.key).send("POST", f"/v1/domains/{domain}/datasets", files=files)
        except httpx.TransportError:
            return [*codes, 0]
        if response.status_code not in {429, 503}:
            return [*codes, response.status_code]
        codes.append(response.status_code if "retry-after" in response.headers else 0)
        time.sleep(float(response.headers.get("retry-after", 1)))


def _pour(stack: Stack, line: str, content_type: str, total: int) -> None:
    """Sends a large body without a key until it is cut off."""
    with closing(_connected(stack)) as connection:
        connection.sendall(head(line, Content_Type=content_type, Content_Length=str(total)))
        if content_type == FILE_FORM:
            connection.sendall(FILE_START)
        pour(connection, total)
        answer(connection)


def _hold(stack: Stack, count: int) -> None:
    """Holds silent connections, half of them with half a request head, and sends a request next to them."""
    with ExitStack() as held:
        for index in range(count):
            connection = held.enter_context(closing(_connected(stack)))
            if index % 2:
                connection.sendall(b"GET /livez HTTP/1.1\r\nX: " + b"y" * 60_000)
        httpx.get(f"{stack.url}/livez").raise_for_status()


def _upload(caller: Caller, domain: str, zipped: bytes) -> list[str]:
    """Uploads several times at once and returns the ids of the data sets once they are ready."""

    def send(_: int) -> str:
        answer = caller.send("POST", f"/v1/domains/{domain}/datasets", files={"file": ("s.zip", zipped)})
        return str(answer.raise_for_status().json()["id"])

    with ThreadPoolExecutor(ZIPS) as pool:
        sent = list(pool.map(send, range(ZIPS)))
    datasets = [caller.wait(f"/v1/datasets/{id}", "validating") for id in sent]
    assert {dataset["status"] for dataset in datasets} == {"ready"}, datasets
    return sent


def _train(stack: Stack, caller: Caller, domain: str, datasets: Sequence[str]) -> None:
    id = start_finetune(caller, domain, datasets[0], steps=1)
    until(lambda: ended(stack, "finetunes", id))


def _small_zip() -> bytes:
    """Returns a zip of two one-bit images, black except for a pixel."""
    entries = []
    for index in range(2):
        image, file = Image.new("1", (LARGE_SIDE, LARGE_SIDE)), io.BytesIO()
        image.putpixel((index, 0), 1)
        image.save(file, "PNG")
        entries.append(deflated(b"cat/%d.png" % index, file.getvalue()))
    return zip_of(*entries, good=False)


def _connected(stack: Stack) -> socket.socket:
    url = urlparse(stack.url)
    return socket.create_connection((url.hostname or "", url.port or 0), timeout=30)
