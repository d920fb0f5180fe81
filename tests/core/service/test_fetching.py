"""Fetching of files from real servers that redirect, lie, stall, or have misleading names."""

import ipaddress
import socket
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from typing import Any

import boto3
import pytest

from core.service.config import Settings
from core.service.datasets.fetching import Fetcher, Rules, list_bucket
from core.service.datasets.images import Refused
from tests.receiver import Receiver, content, receiving, status

HOST = "images.example.com"


@pytest.fixture
def server() -> Iterator[Receiver]:
    with receiving(content(b"image")) as server:
        yield server


def fetcher(*hosts: str, allow_private: bool = True, seconds: float = 10) -> Fetcher:
    return Fetcher(Rules(hosts or ("*",), allow_private), "ten_1", seconds)


def reason(url: str, *hosts: str, max_bytes: int = 100, **options: Any) -> str:
    with pytest.raises(Refused) as refused:
        fetcher(*hosts, **options).fetch(url, max_bytes)
    assert url not in refused.value.detail, "it may be signed"
    return refused.value.code


def resolve(monkeypatch: pytest.MonkeyPatch, **addresses: str) -> list[str]:
    """Makes names with these first labels resolve to these addresses. Returns the list of addresses that are connected
    to; a connection to a public address is refused."""
    connected: list[str] = []
    look_up, connect = socket.getaddrinfo, socket.create_connection

    def getaddrinfo(host: str, port: int, *rest: Any, **options: Any) -> Any:
        return look_up(addresses.get(host.partition(".")[0], host), port, *rest, **options)

    def create_connection(address: tuple[str, int], *rest: Any) -> socket.socket:
        connected.append(address[0])
        if ipaddress.ip_address(address[0]).is_global:
            raise ConnectionRefusedError
        return connect(address, *rest)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    monkeypatch.setattr(socket, "create_connection", create_connection)
    return connected


def test_file_is_fetched_with_its_query(server: Receiver) -> None:
    assert fetcher().fetch(f"http://127.0.0.1:{server.port}/a.png?signature=1", 5) == b"image"
    assert [headers["path"] for headers, _ in server.received] == ["/a.png?signature=1"]


def test_body_without_a_length_is_read_to_its_end(server: Receiver) -> None:
    def answer(request: BaseHTTPRequestHandler) -> None:
        request.wfile.write(b"HTTP/1.0 200 OK\r\n\r\nimage")

    server.answer = answer
    assert fetcher().fetch(server.url, 5) == b"image"


@pytest.mark.parametrize(
    ("url", "code"),
    [
        (f"http://{HOST}/", "url_refused"),
        ("ftp://images.example.com/a", "url_refused"),
        ("https://user:password@images.example.com/", "url_refused"),
        ("https://127.0.0.1/", "url_refused"),
        ("https://[::1]/", "url_refused"),
        ("https://[::ffff:127.0.0.1]/", "url_refused"),
        ("https://[::ffff:7f00:1]/", "url_refused"),
        ("https://[64:ff9b::7f00:1]/", "url_refused"),
        ("https://169.254.169.254/latest/meta-data", "url_refused"),
        ("https://2130706433/", "address_refused"),
        ("https://0x7f.1/", "address_refused"),
        ("https://localhost/", "address_refused"),
    ],
)
def test_urls_of_private_places_are_refused(url: str, code: str) -> None:
    assert reason(url, allow_private=False) == code


@pytest.mark.parametrize("address", ["127.0.0.1", "10.0.0.1", "169.254.169.254", "::1", "::ffff:10.0.0.1", "fd00::1"])
def test_name_of_a_private_address_is_not_connected_to(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    connected = resolve(monkeypatch, images=address)
    assert reason(f"https://{HOST}/", HOST, allow_private=False) == "address_refused"
    assert connected == []


@pytest.mark.parametrize(
    ("patterns", "is_allowed"),
    [
        ((HOST,), True),
        (("*.example.com",), True),
        (("other.example.com", "*"), True),
        (("example.com",), False),
        (("*.images.example.com",), False),
        ((f"{HOST}.evil.test",), False),
        ((), False),
    ],
)
def test_only_allowed_hosts_are_asked(
    monkeypatch: pytest.MonkeyPatch, patterns: tuple[str, ...], is_allowed: bool
) -> None:
    connected = resolve(monkeypatch, images="8.8.8.8")
    with pytest.raises(Refused) as refused:
        Fetcher(Rules(patterns, allow_private=False), "ten_1").fetch(f"https://{HOST}/", 1)
    assert refused.value.code == ("connection_failed" if is_allowed else "host_refused")
    assert connected == (["8.8.8.8"] if is_allowed else [])


def test_patterns_of_hosts_come_from_the_settings() -> None:
    settings = Settings(_env_file=None, dataset_import_hosts=" A.example.com, *.Example.org ,")  # type: ignore[call-arg]
    assert Rules.of(settings) == Rules(("a.example.com", "*.example.org"), allow_private=False)
    for wrong in ("https://a.example.com", "a.example.com:443", "a.example.com/b"):
        with pytest.raises(ValueError, match="without a scheme, port or path"):
            Settings(_env_file=None, dataset_import_hosts=wrong)  # type: ignore[call-arg]


def test_redirect_is_followed(server: Receiver) -> None:
    with receiving(status(302, Location=f"http://127.0.0.1:{server.port}/b.png")) as first:
        assert fetcher().fetch(first.url, 5) == b"image"


def test_relative_redirect_is_followed(server: Receiver) -> None:
    def answer(request: BaseHTTPRequestHandler) -> None:
        status(308, Location="../b.png")(request) if "hooks" in request.path else content(b"other")(request)

    server.answer = answer
    assert fetcher().fetch(server.url, 5) == b"other"


@pytest.mark.parametrize(
    ("location", "code"),
    [
        ("http://127.0.0.1:{port}/", "url_refused"),
        ("https://127.0.0.1:{port}/", "url_refused"),
        ("https://[::ffff:127.0.0.1]:{port}/", "url_refused"),
        ("https://inner.example.com:{port}/", "address_refused"),
        ("file:///etc/passwd", "url_refused"),
        ("https://[", "url_refused"),
    ],
)
def test_redirect_to_a_private_place_is_refused(
    monkeypatch: pytest.MonkeyPatch, server: Receiver, location: str, code: str
) -> None:
    connected = resolve(monkeypatch, inner="127.0.0.1")
    rules = Rules(("*",), allow_private=True)

    def redirect(request: BaseHTTPRequestHandler) -> None:
        """Redirects like a public server: only the request to it may go to a private address."""
        object.__setattr__(rules, "allow_private", False)
        status(301, Location=location.format(port=server.port))(request)

    with receiving(redirect) as first, pytest.raises(Refused) as refused:
        Fetcher(rules, "ten_1", 10).fetch(first.url, 5)
    assert (refused.value.code, len(connected), server.received) == (code, 1, [])


def test_redirect_to_a_host_that_is_not_allowed_is_refused(monkeypatch: pytest.MonkeyPatch, server: Receiver) -> None:
    resolve(monkeypatch, images="127.0.0.1", other="127.0.0.1")
    server.answer = status(302, Location=f"http://other.example.com:{server.port}/")
    assert reason(f"http://{HOST}:{server.port}/", HOST) == "host_refused"
    assert [headers["host"] for headers, _ in server.received] == [f"{HOST}:{server.port}"]


def test_endless_redirects_end(server: Receiver) -> None:
    server.answer = status(302, Location=server.url)
    assert reason(server.url) == "too_many_redirects"
    assert len(server.received) == 6


def test_name_that_changes_after_the_check_has_no_effect(monkeypatch: pytest.MonkeyPatch) -> None:
    connected = resolve(monkeypatch, images="8.8.8.8")
    assert reason(f"https://{HOST}/", allow_private=False) == "connection_failed"
    assert connected == ["8.8.8.8"], "the checked address, not the name"


def test_other_status_is_reported(server: Receiver) -> None:
    server.answer = content(b"no", code=404)
    assert reason(server.url) == "http_status"


def test_announced_huge_body_is_not_read(server: Receiver) -> None:
    server.answer = content(b"", length=10**12)
    assert reason(server.url) == "too_large"


def test_endless_body_is_cut_off(server: Receiver) -> None:
    def endless(request: BaseHTTPRequestHandler) -> None:
        request.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while not server.done.is_set():
            request.wfile.write(b"a" * 2**16)

    server.answer = endless
    assert reason(server.url, max_bytes=2**20) == "too_large"


def test_body_that_is_shorter_than_announced_is_refused(server: Receiver) -> None:
    server.answer = content(b"image", length=6)
    assert reason(server.url) == "connection_failed"


def test_body_that_is_longer_than_announced_is_cut_to_its_length(server: Receiver) -> None:
    server.answer = content(b"image and more", length=5)
    assert fetcher().fetch(server.url, 100) == b"image"


@pytest.mark.parametrize("head", [b"HTTP/1.1 200 OK\r\nContent-Length: 90\r\n\r\n", b"HTTP/1.0 200 OK\r\n\r\n"])
def test_slow_body_ends_at_the_deadline(server: Receiver, head: bytes) -> None:
    def drip(request: BaseHTTPRequestHandler) -> None:
        request.wfile.write(head)
        while not server.done.wait(0.05):
            request.wfile.write(b"a")

    server.answer = drip
    started = time.monotonic()
    assert reason(server.url, seconds=0.5) == "timed_out"
    assert time.monotonic() - started >= 0.5


def test_redirects_share_one_deadline(server: Receiver) -> None:
    def late(request: BaseHTTPRequestHandler) -> None:
        server.done.wait(0.3)
        status(302, Location=server.url)(request)

    server.answer = late
    assert reason(server.url, seconds=0.5) == "timed_out"


DEFAULTS = " ".join(f"a{number} CDATA ''" for number in range(100_000))
HUGE = f"<!DOCTYPE a [<!ATTLIST x {DEFAULTS}>]><ListBucketResult>{'<x/>' * 500_000}</ListBucketResult>"
"""Page of 4 MB with 50,000,000,000 attributes."""


@pytest.mark.parametrize(
    "page",
    [
        b"",
        b"no xml",
        b"<Error/>",
        b'<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/hostname">]><a>&b;</a>',
        HUGE.encode(),
        HUGE.encode("utf-16"),
        HUGE.encode("utf-16-le"),
    ],
    ids=["empty", "no xml", "error", "entity", "attributes", "utf-16", "utf-16 without a mark"],
)
def test_listing_of_something_else_is_refused(page: bytes) -> None:
    with pytest.raises(Refused) as refused:
        list_bucket(lambda *_: page, "https://b", "", 10, lambda: None)
    assert refused.value.code == "listing_invalid"


def test_bucket_with_several_pages_is_listed_to_its_end(s3_endpoint: str) -> None:
    client = boto3.client("s3", endpoint_url=s3_endpoint, region_name="us-east-1")
    client.create_bucket(Bucket="pages", ACL="public-read")
    for number in range(1001):
        client.put_object(Bucket="pages", Key=f"a/{number}.png", Body=b"")
    files = list_bucket(fetcher().fetch, f"{s3_endpoint}/pages", "a/", 1001, lambda: None)
    assert sorted(files) == sorted((f"{n}.png", f"{s3_endpoint}/pages/a/{n}.png") for n in range(1001))


def test_endless_listing_ends() -> None:
    page = b"<ListBucketResult><NextContinuationToken>a</NextContinuationToken></ListBucketResult>"
    with pytest.raises(Refused) as refused:
        list_bucket(lambda *_: page, "https://b", "", 10, lambda: None)
    assert refused.value.code == "listing_invalid"


def test_too_many_files_of_a_bucket_are_refused() -> None:
    entries = b"".join(b"<Contents><Key>a/%d.png</Key></Contents>" % number for number in range(11))
    with pytest.raises(Refused) as refused:
        list_bucket(lambda *_: b"<ListBucketResult>%b</ListBucketResult>" % entries, "https://b", "", 10, lambda: None)
    assert refused.value.code == "too_many_files"
