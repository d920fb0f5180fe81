"""Servers that benchmarks start as separate processes."""

import os
import socket
import subprocess
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil


@dataclass(frozen=True)
class Server:
    port: int
    process: psutil.Process

    @property
    def memory(self) -> int:
        """Resident memory of the process in bytes."""
        return int(self.process.memory_info().rss)


def post(url: str, path: str, key: str, body: dict[str, object]) -> dict[str, str]:
    """Posts `body` as JSON to the API and returns the JSON of the response. Raises httpx.HTTPError."""
    answer = httpx.post(f"{url}{path}", headers={"Authorization": f"Bearer {key}"}, json=body)
    created: dict[str, str] = answer.raise_for_status().json()
    return created


def start(exits: ExitStack, command: list[str], environment: dict[str, str], port: int, path: str, log: Path) -> Server:
    """Starts a server as a process that `exits` ends, with its output in the file `log`. Waits until it answers at
    `path`. Raises RuntimeError, with the output, if the process ends before."""
    process = launch(exits, command, environment, log)
    while not _answers(port, path):
        if process.poll() is not None:
            raise RuntimeError(f"{' '.join(command)} has ended:\n{log.read_text()}")
        time.sleep(0.1)
    return Server(port, psutil.Process(process.pid))


def launch(exits: ExitStack, command: list[str], environment: dict[str, str], log: Path) -> "subprocess.Popen[bytes]":
    """Starts a process that `exits` ends, with its output in the file `log`."""
    output = exits.enter_context(log.open("w"))
    process = subprocess.Popen(command, env={**os.environ, **environment}, stdout=output, stderr=output)
    exits.callback(process.wait)
    exits.callback(process.terminate)
    return process


def _answers(port: int, path: str) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}{path}").status_code == 200
    except httpx.TransportError:
        return False


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
