"""One attempt to a real receiver that fails, is slow, redirects, disconnects, or has a misleading name."""

import datetime
import ipaddress
import socket
import ssl
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from core.service.webhooks import sending
from core.service.webhooks.sending import DeliveryFailed
from tests.receiver import Receiver, receiving, status

HOST = "hooks.example.com"


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as receiver:
        yield receiver


def post(url: str, *, allow_private: bool = True, seconds: float = 10) -> int:
    return sending.post(url, {"X-Mine": "a"}, b"{}", tenant="ten_1", allow_private=allow_private, seconds=seconds)


def failure(url: str, **options: Any) -> str:
    with pytest.raises(DeliveryFailed) as failed:
        post(url, **options)
    return failed.value.code


def look_up(monkeypatch: pytest.MonkeyPatch, *answers: list[str]) -> list[str]:
    """Makes each look-up of a name return the next answer. Returns the list of names that are looked up."""
    asked: list[str] = []
    real = socket.getaddrinfo

    def getaddrinfo(host: str, port: int, *rest: Any, **options: Any) -> Any:
        try:
            ipaddress.ip_address(host)
        except ValueError:
            asked.append(host)
            addresses = answers[min(len(asked), len(answers)) - 1]
            return [info for address in addresses for info in real(address, port, *rest, **options)]
        return real(host, port, *rest, **options)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return asked


def test_request_arrives_with_body_and_headers(receiver: Receiver) -> None:
    assert post(receiver.url) == 204
    [(headers, body)] = receiver.received
    assert (headers["host"], headers["x-mine"], body) == (f"127.0.0.1:{receiver.port}", "a", b"{}")


def test_redirect_is_not_followed(receiver: Receiver) -> None:
    with receiving(status(302, Location=receiver.url)) as elsewhere:
        assert post(elsewhere.url) == 302
    assert receiver.received == []


def test_closed_port_fails_the_delivery() -> None:
    with receiving() as receiver:
        pass
    assert failure(receiver.url) == "connection_failed"


def test_closed_connection_fails_the_delivery(receiver: Receiver) -> None:
    receiver.answer = lambda request: request.connection.close()
    assert failure(receiver.url) == "connection_failed"


def test_silence_ends_at_the_deadline(receiver: Receiver) -> None:
    receiver.answer = lambda _: bool(receiver.done.wait()) and None
    assert failure(receiver.url, seconds=0.3) == "timed_out"


def test_response_sent_byte_by_byte_ends_at_the_deadline(receiver: Receiver) -> None:
    def drip(request: BaseHTTPRequestHandler) -> None:
        request.wfile.write(b"HTTP/1.1 200 OK\r\nX-Endless: ")
        while not receiver.done.wait(0.05):
            request.wfile.write(b"a")

    receiver.answer = drip
    assert failure(receiver.url, seconds=0.5) == "timed_out"


def test_endless_body_is_not_read(receiver: Receiver) -> None:
    def endless(request: BaseHTTPRequestHandler) -> None:
        request.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while not receiver.done.is_set():
            request.wfile.write(b"a" * 2**16)

    receiver.answer = endless
    assert post(receiver.url) == 200


def test_unknown_host_fails_the_delivery() -> None:
    assert failure("https://nobody.invalid/", allow_private=False) == "host_unknown"


@pytest.mark.parametrize("addresses", [["127.0.0.1"], ["8.8.8.8", "127.0.0.1"], ["::1"], ["169.254.169.254"]])
def test_name_of_a_private_address_is_rejected(monkeypatch: pytest.MonkeyPatch, addresses: list[str]) -> None:
    monkeypatch.setattr(socket, "create_connection", lambda *_: pytest.fail("it must not connect"))
    look_up(monkeypatch, addresses)
    assert failure(f"https://{HOST}/", allow_private=False) == "address_refused"


@pytest.mark.parametrize("host", ["localhost", "2130706433", "0x7f.1", "127.1"])
def test_unusual_spellings_of_private_addresses_are_rejected(host: str) -> None:
    assert failure(f"https://{host}/", allow_private=False) == "address_refused"


def test_name_that_changes_after_the_check_has_no_effect(monkeypatch: pytest.MonkeyPatch) -> None:
    connected: list[str] = []

    def create_connection(address: tuple[str, int], timeout: float) -> socket.socket:
        connected.append(address[0])
        raise ConnectionRefusedError

    monkeypatch.setattr(socket, "create_connection", create_connection)
    asked = look_up(monkeypatch, ["8.8.8.8", "1.1.1.1"], ["127.0.0.1"])
    assert failure(f"https://{HOST}/", allow_private=False) == "connection_failed"
    assert (asked, connected) == ([HOST], ["8.8.8.8", "1.1.1.1"]), "the name is looked up once, then the addresses"


def test_certificate_must_match_the_host_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trusted, certificate = ssl.create_default_context(), make_certificate(tmp_path)
    trusted.load_verify_locations(certificate)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(certificate)
    look_up(monkeypatch, ["127.0.0.1"])
    with receiving(tls=server) as receiver:
        right, other = (f"https://{host}:{receiver.port}/" for host in (HOST, "other.example.com"))
        assert failure(right) == "tls_failed", "the certificate is not trusted"
        monkeypatch.setattr(sending, "_tls", lambda: trusted)
        assert post(right) == 204
        assert failure(other) == "tls_failed"
        assert [headers["host"] for headers, _ in receiver.received] == [f"{HOST}:{receiver.port}"]


def test_plain_http_on_an_https_url_fails(receiver: Receiver) -> None:
    assert failure(f"https://127.0.0.1:{receiver.port}/") == "tls_failed"


def make_certificate(folder: Path) -> Path:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, HOST)])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(HOST)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    path = folder / "certificate.pem"
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain)
    path.write_bytes(private + certificate.public_bytes(pem))
    return path
