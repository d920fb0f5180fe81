"""Generates load: clients that each send one request after another over a persistent connection. They parse only the
status and length of responses, since they share the CPU cores with the measured server."""

import asyncio
import re
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

_LENGTH = re.compile(rb"content-length: (\d+)", re.IGNORECASE)


@dataclass
class Load:
    """Result of a load: its duration in seconds, the number of responses by HTTP status, and the latency of each
    response in seconds."""

    seconds: float = 0.0
    statuses: Counter[int] = field(default_factory=Counter)
    latencies: list[float] = field(default_factory=list)

    @property
    def rate(self) -> float:
        """Number of responses per second, over all clients."""
        return len(self.latencies) / self.seconds


def request(method: str, path: str, key: str = "", body: str = "") -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: 127.0.0.1", f"Content-Length: {len(body)}"]
    lines += [f"Authorization: Bearer {key}"] if key else []
    lines += ["Content-Type: application/json"] if body else []
    return ("\r\n".join(lines) + "\r\n\r\n" + body).encode()


def send(port: int, seconds: float, clients: int, next_request: Callable[[], bytes], pause: float = 0.0) -> Load:
    """Sends requests from `clients` concurrent clients for `seconds`; each client waits for `pause` seconds after a
    response."""
    return asyncio.run(_send(port, seconds, clients, next_request, pause))


async def _send(port: int, seconds: float, clients: int, next_request: Callable[[], bytes], pause: float) -> Load:
    load = Load()
    started = time.perf_counter()
    await asyncio.gather(*(_client(port, started + seconds, next_request, load, pause) for _ in range(clients)))
    load.seconds = time.perf_counter() - started
    return load


async def _client(port: int, until: float, next_request: Callable[[], bytes], load: Load, pause: float) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    while (sent := time.perf_counter()) < until:
        writer.write(next_request())
        head = await reader.readuntil(b"\r\n\r\n")
        length = _LENGTH.search(head)
        if length and int(length[1]):
            await reader.readexactly(int(length[1]))
        load.latencies.append(time.perf_counter() - sent)
        load.statuses[int(head[9:12])] += 1
        if pause:
            await asyncio.sleep(pause)
    writer.close()
    await writer.wait_closed()
