"""The API and a worker as separate processes, and a client for them."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx

from tests import services

ADMIN = "an-administrator-for-tests-of-processes"
Process = subprocess.Popen[bytes]


class Caller:
    """One API key's requests."""

    def __init__(self, http: httpx.Client, key: str) -> None:
        self.http, self.key = http, key

    def send(self, method: str, path: str, **options: Any) -> httpx.Response:
        headers = {"Authorization": f"Bearer {self.key}", **options.pop("headers", {})}
        return self.http.request(method, path, headers=headers, **options)

    def get(self, path: str) -> Any:
        return self.send("GET", path).raise_for_status().json()

    def post(self, path: str, body: dict[str, Any]) -> Any:
        return self.send("POST", path, json=body).raise_for_status().json()

    def wait(self, path: str, *unfinished: str) -> Any:
        """Polls until the status is none of `unfinished`, without a limit of its own; the test run has one."""
        while (resource := self.get(path))["status"] in unfinished:
            time.sleep(0.2)
        return resource


@contextmanager
def running(environment: Mapping[str, str], folder: Path) -> Iterator[str]:
    """Starts an API process and a worker process, and yields the URL."""
    with api(environment, folder) as url, worker(environment, folder) as process:
        wait_for_worker(url)
        yield url
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0, "a worker that is asked to stop must exit with 0"


@contextmanager
def api(environment: Mapping[str, str], folder: Path) -> Iterator[str]:
    environment = {"DIFFFIT_ADMIN_KEY": ADMIN, "DIFFFIT_PORT": str(services.free_port()), **environment}
    with _process("api", environment, folder) as process:
        url = f"http://127.0.0.1:{environment['DIFFFIT_PORT']}"
        while not _ready(url):
            assert process.poll() is None, "the API ended at its start"
            time.sleep(0.1)
        yield url
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) in {0, -signal.SIGTERM}, "an API that is asked to stop must exit cleanly"


@contextmanager
def worker(environment: Mapping[str, str], folder: Path) -> Iterator[Process]:
    with _process("worker", environment, folder) as process:
        yield process


def wait_for_worker(url: str) -> None:
    while not _ready(url).get("workers"):
        time.sleep(0.1)


def _ready(url: str) -> dict[str, Any]:
    try:
        answer: dict[str, Any] = httpx.get(f"{url}/readyz").json()
    except httpx.TransportError:
        return {}
    return answer if answer["status"] == "ready" else {}


@contextmanager
def _process(name: str, environment: Mapping[str, str], folder: Path) -> Iterator[Process]:
    """Runs `python -m name`, kills it at the end if it still runs, and prints its log, shown by pytest on failure."""
    path = folder / f"{name}.log"
    with ExitStack() as stack:
        log = stack.enter_context(path.open("a"))
        command = [sys.executable, "-m", name]
        process = subprocess.Popen(command, env={**os.environ, **environment}, stdout=log, stderr=log)
        try:
            yield process
        finally:
            process.kill()
            process.wait()
            print(path.read_text())
