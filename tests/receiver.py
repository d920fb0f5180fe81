"""A receiver of webhooks and server of files in a separate thread, which responds as a test wants."""

import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Answer = Callable[[BaseHTTPRequestHandler], None]


@dataclass
class Receiver:
    port: int
    answer: Answer
    received: list[tuple[dict[str, str], bytes]] = field(default_factory=list)
    done: threading.Event = field(default_factory=threading.Event)
    """Set at the end; endless responses wait for it."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hooks?a=b"


def status(code: int, **headers: str) -> Answer:
    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(code)
        for name, value in headers.items():
            request.send_header(name, value)
        request.end_headers()

    return answer


def content(data: bytes, code: int = 200, length: int | None = None) -> Answer:
    """Returns an answer with a body, whose announced length may be wrong."""

    def answer(request: BaseHTTPRequestHandler) -> None:
        status(code, **{"Content-Length": str(len(data) if length is None else length)})(request)
        request.wfile.write(data)

    return answer


@contextmanager
def receiving(answer: Answer | None = None, tls: ssl.SSLContext | None = None) -> Iterator[Receiver]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            receiver.received.append(({name.lower(): value for name, value in self.headers.items()}, body))
            receiver.answer(self)

        def do_GET(self) -> None:
            receiver.received.append(({"path": self.path, "host": self.headers["Host"]}, b""))
            receiver.answer(self)

        def log_message(self, *_: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: object) -> None:
            """Ignores connection errors, which some tests cause on purpose."""

    with Server(("127.0.0.1", 0), Handler) as server:
        receiver = Receiver(server.server_address[1], answer or status(204))
        if tls is not None:
            server.socket = tls.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield receiver
        finally:
            receiver.done.set()
            server.shutdown()
            thread.join()
