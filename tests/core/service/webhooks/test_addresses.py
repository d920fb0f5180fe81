"""Public and private addresses, and the webhook URLs that are accepted."""

import ipaddress

import pytest

from core.service.errors import WebhookUrlRefused
from core.service.webhooks.addresses import is_public, parse


@pytest.mark.parametrize(
    "address",
    [
        "0.0.0.0", "10.0.0.1", "100.64.0.1", "100.100.100.200", "127.0.0.1", "127.255.255.254", "169.254.169.254",
        "168.63.129.16", "172.16.0.1", "172.31.255.255", "192.0.0.192", "192.0.2.1", "192.168.1.1", "198.18.0.1",
        "198.51.100.1", "203.0.113.1", "224.0.0.1", "239.255.255.255", "240.0.0.1", "255.255.255.255",
        "::", "::1", "::127.0.0.1", "::ffff:127.0.0.1", "::ffff:169.254.169.254", "::ffff:10.0.0.1", "fc00::1",
        "fd00:ec2::254", "fe80::1", "fe80::1%eth0", "fec0::1", "ff02::1", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe",
        "64:ff9b:1::1", "2002:7f00:1::", "2002:808:808::", "2001::1", "2001:db8::1", "100::1",
    ],
)  # fmt: skip
def test_private_addresses_are_not_public(address: str) -> None:
    assert not is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize(
    "address",
    ["8.8.8.8", "1.1.1.1", "2606:4700:4700::1111", "2a00:1450:4001::200e", "::ffff:8.8.8.8", "64:ff9b::808:808"],
)
def test_public_addresses_are_public(address: str) -> None:
    assert is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize(
    "url",
    [
        "", "x", "http://example.com", "ftp://example.com", "https://", "https:///a", "https://user@example.com",
        "https://user:password@example.com", "https://example.com#a", "https://example.com:0", "https://example.com:x",
        "https://example.com:70000", "https://[::1]", "https://[x]", "https://127.0.0.1/", "https://[::ffff:7f00:1]/",
        "https://169.254.169.254/latest", "https://exämple.com", "https://a b.com", "https://a.com/\r\nX: y",
        "https://a.com\\@b.com", "//example.com", "file:///etc/passwd",
    ],
)  # fmt: skip
def test_unsuitable_urls_are_rejected(url: str) -> None:
    with pytest.raises(WebhookUrlRefused):
        parse(url, allow_private=False)


def test_url_is_split_into_its_parts() -> None:
    url = parse("https://Example.com/a/b?c=d", allow_private=False)
    assert (url.host, url.port, url.path) == ("example.com", 443, "/a/b?c=d")
    url = parse("http://127.0.0.1:8000", allow_private=True)
    assert (url.is_https, url.authority, url.port, url.path) == (False, "127.0.0.1:8000", 8000, "/")
    assert parse("https://[2606:4700:4700::1111]:8443/", allow_private=False).port == 8443
