"""Limits on the memory, disk, connections, threads and time of `python -m api` that clients without a key and greedy
tenants can use."""

import os
import re
import resource
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psutil
import pytest

from tests.api.client import draw_generations, load_base, png, zip_of
from tests.api.test_process import Server, made, services_of, serving, tenant_client

KEY = "an-administrators-key-for-strangers-to-guess"
MIB = 2**20
HTML_FORM = "application/x-www-form-urlencoded"
FILE_FORM = "multipart/form-data; boundary=x"
FILE_START = b'--x\r\nContent-Disposition: form-data; name="key"; filename="f"\r\n\r\n'


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Yields a process with the default limits."""
    with serving(tmp_path_factory.mktemp("strangers"), DIFFFIT_ADMIN_KEY=KEY) as server:
        yield server


@pytest.fixture(scope="module")
def hasty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Yields a process with short timeouts and few connections."""
    limits = {
        "DIFFFIT_REQUEST_HEAD_SECONDS": "1",
        "DIFFFIT_REQUEST_BODY_SECONDS": "1",
        "DIFFFIT_RESPONSE_STALL_SECONDS": "1",
        "DIFFFIT_MAX_CONNECTIONS": "20",
        "DIFFFIT_MAX_ADDRESS_CONNECTIONS": "1000",
    }
    with serving(tmp_path_factory.mktemp("hasty"), DIFFFIT_ADMIN_KEY=KEY, **limits) as server:
        yield server


@dataclass
class Use:
    """Peak use of a process while it was watched, in bytes."""

    memory: int = 0
    disk: int = 0
    """Size of unlinked temporary files, such as those that hold uploads."""
    started_with: int = 0
    ended: threading.Event = field(default_factory=threading.Event)

    @property
    def more_memory(self) -> int:
        return self.memory - self.started_with


@contextmanager
def watching(server: Server) -> Iterator[Use]:
    process = psutil.Process(server.process.pid)
    use = Use(started_with=process.memory_info().rss)

    def watch() -> None:
        while not use.ended.wait(0.01):
            use.memory = max(use.memory, process.memory_info().rss)
            use.disk = max(use.disk, nameless_bytes(process.pid))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield use
    finally:
        use.ended.set()
        watcher.join()


def nameless_bytes(pid: int) -> int:
    total = 0
    for file in Path(f"/proc/{pid}/fd").iterdir():
        try:
            if "(deleted)" in str(file.readlink()):
                total += file.stat().st_size
        except OSError:  # the file was closed meanwhile
            continue
    return total


def connected(server: Server, source: str = "127.0.0.1") -> socket.socket:
    host, port = re.findall(r"//(.+):(\d+)", server.url)[0]
    return socket.create_connection((host, int(port)), timeout=30, source_address=(source, 0))


def head(line: str, **headers: str) -> bytes:
    lines = [
        line + " HTTP/1.1",
        "Host: here",
        *(f"{name.replace('_', '-')}: {value}" for name, value in headers.items()),
    ]
    return "\r\n".join([*lines, "", ""]).encode()


def pour(connection: socket.socket, total: int) -> int:
    """Sends up to `total` bytes and returns how many were accepted."""
    piece, sent = b"x" * MIB, 0
    while sent < total and is_taken(connection, piece):
        sent += len(piece)
    return sent


def answer(connection: socket.socket) -> bytes:
    """Returns all bytes received until the other side closes or resets the connection."""
    received = b""
    with suppress(OSError):
        while piece := connection.recv(2**16):
            received += piece
    return received


@pytest.mark.parametrize(
    ("line", "content_type", "status"),
    [("PATCH /v1/webhooks/x", "multipart/x", 401), ("POST /v1/domains", "application/json", 401),
     ("POST /v1/domains/x/datasets", FILE_FORM, 401), ("POST /v1/domains/x/adapters", FILE_FORM, 401),
     ("PUT /v1/domains/x/datasets/uploads/y/parts/1", "multipart/x", 401), ("PATCH /nothing", "multipart/x", 404),
     ("POST /dashboard/session", FILE_FORM, 400), ("POST /dashboard/session", HTML_FORM, 400),
     ("PUT /dashboard/upload/x/y/parts/1", "multipart/x", 401), ("POST /dashboard/upload/x/", FILE_FORM, 401)],
)  # fmt: skip
@pytest.mark.parametrize("announced", [True, False])
def test_upload_without_a_key_uses_neither_memory_nor_disk(
    server: Server, line: str, content_type: str, status: int, *, announced: bool
) -> None:
    total = 513 * MIB
    length = {"Content_Length": str(total)} if announced else {"Transfer_Encoding": "chunked"}
    httpx.get(f"{server.url}/dashboard/sign-in")  # warm-up: modules that the first page loads do not count
    with watching(server) as use, closing(connected(server)) as connection:
        connection.sendall(head(line, Content_Type=content_type, **length))
        if not announced:
            connection.sendall(f"{total:x}\r\n".encode())
        if content_type == FILE_FORM:
            connection.sendall(FILE_START)
        pour(connection, total)
        connection.shutdown(socket.SHUT_WR)
        assert answer(connection).startswith(f"HTTP/1.1 {status} ".encode())
    assert use.more_memory < 50 * MIB
    assert use.disk < 32 * MIB


def test_headers_without_an_end_are_cut_off(server: Server) -> None:
    for start in (b"GET /", b"GET / HTTP/1.1\r\nX: ", b"GET / HTTP/1.1\r\nHost: here\r\n" + b"X: y\r\n" * 5000):
        with watching(server) as use, closing(connected(server)) as connection:
            connection.sendall(start)
            assert pour(connection, 100 * MIB) < 100 * MIB
        assert use.more_memory < 20 * MIB


def test_trailers_of_a_chunked_body_are_not_stored(server: Server) -> None:
    with watching(server) as use, closing(connected(server)) as connection:
        connection.sendall(head("GET /livez", Transfer_Encoding="chunked") + b"0\r\n")
        for _ in range(100):
            connection.sendall((b"X: " + b"y" * 1000 + b"\r\n") * 1000)
    assert use.more_memory < 30 * MIB


@pytest.mark.parametrize("sent", [b"", b"GET /livez HTTP/1.1\r\nHost: here\r\n", head("GET /livez") + b"\r\n" * 3])
def test_silent_and_half_sent_connections_end(hasty: Server, sent: bytes) -> None:
    with closing(connected(hasty)) as connection:
        started = time.monotonic()
        connection.sendall(sent)
        answer(connection)
        assert time.monotonic() - started < 5


def test_occasional_line_feeds_keep_no_connection_open(hasty: Server) -> None:
    with closing(connected(hasty)) as connection:
        connection.sendall(head("GET /livez"))
        wait_until(lambda: not is_taken(connection, b"\r\n"))


def test_silent_connections_do_not_block_others(hasty: Server) -> None:
    with ExitStack() as silent:
        for _ in range(60):
            silent.enter_context(closing(connected(hasty)))
        assert httpx.get(f"{hasty.url}/livez").status_code == 200


def test_one_address_cannot_take_all_connections(tmp_path: Path) -> None:
    """Covers long-lived connections such as web sockets. A trusted proxy's connections belong to many clients."""
    own = {"DIFFFIT_MAX_CONNECTIONS": "100", "DIFFFIT_MAX_ADDRESS_CONNECTIONS": "10"}
    for trusted, most in (("", 10), ("127.0.0.1", 40)):
        with serving(tmp_path, DIFFFIT_TRUSTED_PROXIES=trusted, **own) as server, ExitStack() as sockets:
            held = [sockets.enter_context(closing(web_socket(server))) for _ in range(40)]
            assert sum(is_open(connection) for connection in held) == most
            other = sockets.enter_context(closing(connected(server, "127.0.0.2")))
            other.sendall(head("GET /livez", Connection="close"))
            assert answer(other).startswith(b"HTTP/1.1 200 ")


def test_endless_web_socket_messages_are_cut_off(server: Server) -> None:
    """Sends only a first frame, whose header announces its length and further frames."""
    announced = 15 * MIB
    start = bytes([0x01, 0x80 | 127]) + announced.to_bytes(8, "big") + bytes(4)
    with watching(server) as use, ExitStack() as sockets:
        for _ in range(10):
            connection = sockets.enter_context(closing(web_socket(server)))
            assert is_open(connection)
            connection.sendall(start)
            pour(connection, announced - MIB)
        time.sleep(0.5)
    assert use.more_memory < 30 * MIB


def web_socket(server: Server) -> socket.socket:
    """Returns a web socket that the dashboard has accepted, or a closed connection."""
    connection = connected(server)
    upgrade = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec_WebSocket_Version": "13"}
    path = "/dashboard/_nicegui_ws/socket.io/?EIO=4&transport=websocket"
    with suppress(OSError):
        connection.sendall(head(f"GET {path}", Sec_WebSocket_Key="AAAAAAAAAAAAAAAAAAAAAA==", **upgrade))
        connection.recv(2**16)
    return connection


def is_open(connection: socket.socket) -> bool:
    connection.settimeout(0.05)
    try:
        return bool(connection.recv(2**16))
    except TimeoutError:
        return True
    except OSError:
        return False


def test_slow_body_times_out(hasty: Server) -> None:
    with closing(connected(hasty)) as connection:
        connection.sendall(head("POST /dashboard/session", Content_Type=HTML_FORM, Content_Length="100") + b"key=")
        assert answer(connection).startswith(b"HTTP/1.1 4")
    with closing(connected(hasty)) as connection:
        authorization = f"Bearer {KEY}"
        json = "application/json"
        connection.sendall(
            head("POST /v1/admin/tenants", Content_Type=json, Content_Length="100", Authorization=authorization) + b"{"
        )
        received = answer(connection)
    assert b'"code":"request_timeout"' in received


def test_client_that_reads_nothing_is_disconnected(tmp_path: Path) -> None:
    """Fills the system's buffers and then the server's with responses that the client never reads."""
    own = {"DIFFFIT_RESPONSE_STALL_SECONDS": "1", "DIFFFIT_REQUEST_HEAD_SECONDS": "1000"}
    with serving(tmp_path, **own) as server, closing(socket.socket()) as connection:
        process = psutil.Process(server.process.pid)
        connection.settimeout(10)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        host, port = re.findall(r"//(.+):(\d+)", server.url)[0]
        connection.connect((host, int(port)))
        here = connection.getsockname()
        while is_taken(connection, head("GET /openapi.json") * 10):
            pass
        wait_until(lambda: all(peer.raddr != here for peer in process.net_connections() if peer.raddr))


def is_taken(connection: socket.socket, data: bytes) -> bool:
    """Returns whether the connection is still open after sending `data`."""
    try:
        connection.sendall(data)
    except OSError:
        return False
    return True


def wait_until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_slow_store_delays_no_other_requests(tmp_path: Path) -> None:
    """Replaces an image by a named pipe: opening it blocks until something is written."""
    worker = services_of(tmp_path)
    with serving(tmp_path, DIFFFIT_ADMIN_KEY=KEY) as server, tenant_client(server.url, KEY) as client:
        load_base(worker)
        domain = made(client, "/v1/domains", json={"name": "Fruit"})["id"]
        body = {"class_id": 0, "adapter_id": "base"}
        generation = made(client, f"/v1/domains/{domain}/generations", json=body)["id"]
        draw_generations(worker)
        url = client.get(f"/v1/generations/{generation}").json()["images"][0]["url"]
        (pipe,) = (tmp_path / "objects").rglob("*.png")
        pipe.unlink()
        os.mkfifo(pipe)
        with ThreadPoolExecutor(48) as pool:
            reads = [pool.submit(httpx.get, url, timeout=60) for _ in range(48)]
            try:
                wait_until(lambda: len(psutil.Process(server.process.pid).net_connections("tcp")) > 48)
                time.sleep(0.5)
                slowest = {path: max(seconds(client, path) for _ in range(5)) for path in ("/livez", "/v1/domains")}
            finally:
                release(pipe, lambda: all(read.done() for read in reads))
        assert slowest["/livez"] < 0.2
        assert slowest["/v1/domains"] < 1
        assert {read.result().status_code for read in reads} == {500}, "an empty file is not the stored one"
    worker.database.dispose()


def seconds(client: httpx.Client, path: str) -> float:
    started = time.monotonic()
    client.get(path).raise_for_status()
    return time.monotonic() - started


def release(pipe: Path, done: Callable[[], bool]) -> None:
    while not done():
        with suppress(OSError):  # no thread reads at this moment
            os.close(os.open(pipe, os.O_WRONLY | os.O_NONBLOCK))
        time.sleep(0.01)


def test_hundred_concurrent_uploads_stay_within_the_disk_limit(server: Server) -> None:
    """Expects each upload to be stored, or refused until others have ended."""
    limit = 16 * 4 * MIB
    with tenant_client(server.url, KEY) as client, ThreadPoolExecutor(100) as pool, watching(server) as use:
        domain = made(client, "/v1/domains", json={"name": "Fruit"})["id"]
        path, body = f"/v1/domains/{domain}/datasets", {"file": ("fruit.zip", large_zip(4 * MIB))}
        headers = dict(client.headers)

        def upload(_: int) -> httpx.Response:
            with httpx.Client(base_url=server.url, headers=headers, timeout=60) as other:
                return other.post(path, files=body)

        answers = list(pool.map(upload, range(100)))
    codes = {response.json()["code"] for response in answers if response.is_error}
    assert codes <= {"too_many_transfers", "service_busy", "quota_exceeded"}
    assert all(int(response.headers["retry-after"]) > 0 for response in answers if response.is_error)
    assert 202 in {response.status_code for response in answers}
    assert use.disk <= limit
    assert use.more_memory < 150 * MIB


def large_zip(size: int) -> bytes:
    """Returns a zip of images and `size` bytes that are no image."""
    return zip_of({f"apple/{n}.png": png(n) for n in range(2)} | {"apple/large.txt": os.urandom(size)})


def test_full_disk_is_reported_as_storage_full(tmp_path: Path) -> None:
    """Simulates the full disk by a limit on file size: spooling fails in the same way."""
    with serving(tmp_path, DIFFFIT_ADMIN_KEY=KEY) as server, tenant_client(server.url, KEY) as client:
        domain = made(client, "/v1/domains", json={"name": "Fruit"})["id"]
        begun = made(client, f"/v1/domains/{domain}/datasets/uploads", json={"size_bytes": 12 * MIB})
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (4 * MIB, 4 * MIB))
        whole = client.post(f"/v1/domains/{domain}/datasets", files={"file": ("fruit.zip", large_zip(8 * MIB))})
        keyed = client.post(
            f"/v1/domains/{domain}/datasets",
            files={"file": ("fruit.zip", large_zip(8 * MIB))},
            headers={"Idempotency-Key": "one"},
        )
        part = client.put(begun["parts"][0]["url"], content=bytes(begun["parts"][0]["size_bytes"]))
        for response in (whole, keyed, part):
            assert (response.status_code, response.json()["code"]) == (503, "storage_full")
            assert "retry-after" in response.headers
        assert client.get("/v1/domains").status_code == 200


@pytest.mark.parametrize(
    ("trusted", "forwarded", "counted"),
    [("", "203.0.113.9", "127.0.0.1"), ("127.0.0.1", "203.0.113.9", "203.0.113.9"),
     ("127.0.0.0/8, 10.0.0.0/8", "198.51.100.1, 203.0.113.9, 10.1.2.3", "203.0.113.9"),
     ("10.0.0.0/8", "203.0.113.9", "127.0.0.1")],
)  # fmt: skip
def test_wrong_keys_count_for_the_last_untrusted_hop(
    tmp_path: Path, trusted: str, forwarded: str, counted: str
) -> None:
    """Also checks that a valid key, and a sign-in with one, still work."""
    own = {"DIFFFIT_MAX_WRONG_KEYS_PER_MINUTE": "3", "DIFFFIT_TRUSTED_PROXIES": trusted}
    with serving(tmp_path, DIFFFIT_ADMIN_KEY=KEY, **own) as server:

        def ask(key: str, address: str) -> int:
            headers = {"Authorization": f"Bearer {key}", "X-Forwarded-For": address}
            return httpx.get(f"{server.url}/v1/key", headers=headers).status_code

        assert 429 in [ask("wrong", forwarded) for _ in range(8)]  # a new minute may begin between two requests
        others = {"127.0.0.1": "192.0.2.1", "203.0.113.9": "192.0.2.1"}
        expected = 429 if counted == "127.0.0.1" else 401
        assert ask("wrong", others[counted]) == expected
        assert ask(KEY, forwarded) == 200


def test_files_are_readable_only_by_their_owner(server: Server) -> None:
    folder = Path(psutil.Process(server.process.pid).cwd())
    files = [file for file in folder.rglob("*") if file.is_file()]
    assert any(file.name == "difffit.db" for file in files)
    assert {file.name: file.stat().st_mode & 0o077 for file in files} == {file.name: 0 for file in files}


def test_part_that_a_browser_sends_is_streamed_and_not_held_in_memory(server: Server) -> None:
    """Sends 100 MB in parts through the pages."""
    with tenant_client(server.url, KEY) as client, httpx.Client(base_url=server.url, timeout=60) as browser:
        domain = made(client, "/v1/domains", json={"name": "Fruit"})["id"]
        key = client.headers["Authorization"].removeprefix("Bearer ")
        assert browser.post("/dashboard/session", data={"key": key}).status_code == 303
        path = f"/dashboard/upload/{domain}/"
        upload = browser.post(path, json={"size_bytes": 100 * MIB}).json()
        part = os.urandom(upload["part_bytes"])
        with watching(server) as use:
            for number in range(1, 100 * MIB // len(part) + 1):
                answer = browser.put(f"{path}{upload['id']}/parts/{number}", content=part)
                assert answer.status_code == 204, answer.text
    assert use.more_memory < 40 * MIB
    assert use.disk < 110 * MIB
