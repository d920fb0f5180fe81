"""A proxy in front of the real API that causes one network fault per entry of a list."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal

import httpx

Fault = Literal["pass", "lose request", "lose answer", "leave running", "unavailable"] | int
"""An integer cuts the response's body after that number of bytes."""
_HOP_BY_HOP = {"connection", "transfer-encoding", "content-length", "keep-alive"}


@dataclass
class Proxy:
    upstream: str
    url: str
    faults: list[Fault] = field(default_factory=list)
    """Faults of the next requests, in order; later requests pass."""
    retry_after: str | None = None
    """Retry-After header of the response for "unavailable", if any."""
    requests: list[httpx.Headers] = field(default_factory=list)
    """Headers of all requests received."""


@contextmanager
def proxied(upstream: str) -> Iterator[Proxy]:
    with _Server(("127.0.0.1", 0), _Handler) as server:
        server.proxy = Proxy(upstream, f"http://127.0.0.1:{server.server_port}")
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.proxy
        finally:
            server.shutdown()
            thread.join()


class _Server(ThreadingHTTPServer):
    proxy: Proxy


class _Handler(BaseHTTPRequestHandler):
    """Handler of one request per connection, as in HTTP/1.0."""

    server: _Server

    def handle_request(self) -> None:
        proxy, headers = self.server.proxy, httpx.Headers(list(self.headers.items()))
        body = self.rfile.read(int(headers.get("content-length", 0)))
        proxy.requests.append(headers)
        fault = proxy.faults.pop(0) if proxy.faults else "pass"
        if fault == "unavailable":
            self._refuse()
        elif fault == "leave running":
            threading.Thread(target=self._forward, args=(headers, body, "lose answer")).start()
        elif fault != "lose request":
            self._forward(headers, body, fault)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = handle_request  # noqa: N815  # http.server's names

    def log_message(self, format: str, *args: object) -> None:
        pass

    def _refuse(self) -> None:
        self.send_response(503)
        if self.server.proxy.retry_after is not None:
            self.send_header("Retry-After", self.server.proxy.retry_after)
        self.end_headers()
        self.wfile.write(b"<html>a proxy's own page</html>")

    def _forward(self, headers: httpx.Headers, body: bytes, fault: Fault) -> None:
        kept = {name: value for name, value in headers.items() if name not in _HOP_BY_HOP}
        url = f"{self.server.proxy.upstream}{self.path}"
        with httpx.stream(self.command, url, headers=kept, content=body, timeout=120) as answer:
            if fault == "lose answer":
                answer.read()
                return
            self.send_response(answer.status_code)
            for name, value in answer.headers.items():
                if name not in _HOP_BY_HOP:
                    self.send_header(name, value)
            self.end_headers()
            self._pass_on(answer, fault)

    def _pass_on(self, answer: httpx.Response, fault: Fault) -> None:
        left = fault if isinstance(fault, int) else None
        for data in answer.iter_raw():
            self.wfile.write(data if left is None else data[:left])
            self.wfile.flush()
            left = None if left is None else left - len(data)
            if left is not None and left <= 0:
                return
