"""Checks of webhook URLs and IP addresses. Only public addresses are allowed, so that nobody can reach the service's
own network through webhooks."""

import ipaddress
from dataclasses import dataclass
from urllib.parse import urlsplit

from core.service.errors import WebhookUrlRefused

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_SPECIAL = (ipaddress.IPv4Network("168.63.129.16/32"), ipaddress.IPv4Network("192.0.0.0/24"))
"""Networks of cloud providers' host agents, which `ipaddress` counts as public. The addresses of other metadata
services are not public and need no entry."""


@dataclass(frozen=True)
class Target:
    """Parsed URL of a webhook."""

    is_https: bool
    host: str
    port: int
    authority: str
    """Value of the Host header."""
    path: str
    """Path and query of the URL."""


def parse(url: str, *, allow_private: bool) -> Target:
    """Parses a webhook's URL, and checks all that can be checked without a DNS look-up. Raises WebhookUrlRefused."""
    if not url.isascii() or not url.isprintable() or " " in url or "\\" in url:
        raise WebhookUrlRefused("must be plain ASCII: percent-encode the path, and write the host as xn--…")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise WebhookUrlRefused("is not a URL") from error
    if parts.scheme != "https" and not (allow_private and parts.scheme == "http"):
        raise WebhookUrlRefused("must start with https://")
    if not host or port == 0:
        raise WebhookUrlRefused("must contain a host and a valid port")
    if parts.username is not None or parts.password is not None or "#" in url:
        raise WebhookUrlRefused("must not contain a user, password or fragment")
    if not allow_private and (address := _literal(host)) is not None and not is_public(address):
        raise WebhookUrlRefused("resolves to an address that is not public")
    is_https = parts.scheme == "https"
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Target(is_https, host, port or (443 if is_https else 80), parts.netloc, path)


def is_public(address: Address) -> bool:
    """Returns whether an IP address belongs to a single host on the public internet: not loopback, private, link-local,
    shared, multicast, reserved or unspecified, nor an IPv6 form of such an IPv4 address."""
    if isinstance(address, ipaddress.IPv4Address):
        special = address.is_multicast or address.is_reserved or any(address in network for network in _SPECIAL)
        return address.is_global and not special
    if address.ipv4_mapped is not None:
        return is_public(address.ipv4_mapped)
    if address in _NAT64:
        return is_public(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
    if address.sixtofour is not None or address.teredo is not None:
        return False
    special = address.is_multicast or address.is_reserved or address.is_site_local or address.scope_id is not None
    return address.is_global and not special


def _literal(host: str) -> Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None
