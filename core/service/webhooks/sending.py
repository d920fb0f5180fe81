"""Requests to URLs that a tenant chose, and that may try to reach private addresses: webhooks and, with `connected`,
imports of data sets.

This module looks up the host, checks every address, and connects to a checked address, so that a later change of the
DNS record has no effect. The standard library's client is sufficient: it follows no redirects, uses no proxy, and
accepts a socket that is already connected. The body of a webhook's response is not read.
"""

import http.client
import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache

from core.artifact.errors import CoreError
from core.service.webhooks import lookups
from core.service.webhooks.addresses import Target, is_public, parse

_MOST_ADDRESSES = 4
"""Max addresses of a host to which connections are tried. All addresses are checked."""


class DeliveryFailed(CoreError):
    """Failure of a webhook delivery. `code` is the kind of failure, and the message is shown to the tenant."""

    code, status, title = "delivery_failed", 502, "Webhook not delivered"

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code  # type: ignore[misc]  # one class for all kinds of failure


def post(url: str, headers: Mapping[str, str], body: bytes, *, tenant: str, allow_private: bool, seconds: float) -> int:
    """Sends a POST request, and returns the response's status code. Takes at most `seconds`. DNS look-ups count towards
    the limit of `tenant`. Raises DeliveryFailed, WebhookUrlRefused."""
    target = parse(url, allow_private=allow_private)
    with connected(target, tenant, allow_private=allow_private, seconds=seconds) as connection:
        connection.request("POST", target.path, body, {"Host": target.authority, **headers})
        return connection.getresponse().status


@contextmanager
def connected(
    target: Target, tenant: str, *, allow_private: bool, seconds: float
) -> Iterator[http.client.HTTPConnection]:
    """Opens an HTTP connection to a checked address of the target, for one request that takes at most `seconds`. Raises
    DeliveryFailed, also for errors of the connection while the caller uses it."""
    deadline = time.monotonic() + seconds
    addresses = _checked(target, tenant, allow_private, deadline)
    try:
        with _connected(target, addresses, deadline) as connection:
            yield connection
            if time.monotonic() >= deadline:
                raise TimeoutError  # the response was cut off at the deadline
    except ssl.SSLCertVerificationError as error:
        raise DeliveryFailed("tls_failed", f"The certificate is not valid: {error.verify_message}.") from error
    except (OSError, http.client.HTTPException) as error:
        if time.monotonic() >= deadline or isinstance(error, TimeoutError):
            raise DeliveryFailed("timed_out", f"There was no response within {seconds:g} s.") from error
        if isinstance(error, ssl.SSLError):
            raise DeliveryFailed("tls_failed", "No TLS connection could be made.") from error
        raise DeliveryFailed("connection_failed", f"The connection failed ({type(error).__name__}).") from error


def _checked(target: Target, tenant: str, allow_private: bool, deadline: float) -> list[str]:
    """Returns the IP addresses of the target's host to connect to. Raises DeliveryFailed if the look-up fails, or if
    any of the host's addresses is private, even if others are public (unless `allow_private`)."""
    try:
        addresses = lookups.addresses(tenant, target.host, target.port, deadline - time.monotonic())
    except lookups.TooManyLookups as error:
        raise DeliveryFailed("timed_out", "Earlier DNS look-ups of your hosts are still running.") from error
    except TimeoutError as error:
        raise DeliveryFailed("timed_out", f"The DNS look-up of {target.host} took too long.") from error
    except (OSError, UnicodeError) as error:
        raise DeliveryFailed("host_unknown", f"The host {target.host} does not exist.") from error
    if not allow_private and not all(is_public(ipaddress.ip_address(address)) for address in addresses):
        raise DeliveryFailed("address_refused", f"{target.host} resolves to an address that is not public.")
    return addresses[:_MOST_ADDRESSES]


@contextmanager
def _connected(target: Target, addresses: list[str], deadline: float) -> Iterator[http.client.HTTPConnection]:
    """Opens an HTTP connection that a timer closes at the deadline. Timeouts of the socket would not stop a response
    that arrives byte by byte."""
    plain = _socket(addresses, target.port, deadline)
    stream = plain
    if target.is_https:
        stream = _tls().wrap_socket(plain, server_hostname=target.host, do_handshake_on_connect=False)
    cut = threading.Timer(max(0.0, deadline - time.monotonic()), _cut, [stream])
    cut.daemon = True
    cut.start()
    try:
        if isinstance(stream, ssl.SSLSocket):
            stream.do_handshake()
        connection = http.client.HTTPConnection(target.host, target.port)
        connection.sock = stream
        yield connection
    finally:
        cut.cancel()
        stream.close()


def _socket(addresses: list[str], port: int, deadline: float) -> socket.socket:
    """Connects to the first address that accepts, and returns the socket. Each address gets an equal part of the time
    that is left. Raises the OSError of the last address if none accepts."""
    for left in range(len(addresses), 0, -1):
        share = max(0.001, (deadline - time.monotonic()) / left)
        try:
            connection = socket.create_connection((addresses[-left], port), share)
        except OSError:
            if left == 1:
                raise
        else:
            connection.settimeout(max(0.001, deadline - time.monotonic()))
            return connection
    raise OSError("no address")


def _cut(stream: socket.socket) -> None:
    """Shuts down a socket, which wakes the thread that reads from it. Skips TLS's closing handshake, which could wait
    too."""
    with suppress(OSError):
        socket.socket.shutdown(stream, socket.SHUT_RDWR)


@cache
def _tls() -> ssl.SSLContext:
    """Returns a TLS context that trusts the system's certificates, or the certificates in the file that SSL_CERT_FILE
    names."""
    return ssl.create_default_context()
