"""Fetching of files from hosts that a tenant chose: images by their URLs, and the files of a public bucket.

Only hosts that the operator allows are asked. Every address is checked before connecting, also after a redirect, by
`core.service.webhooks.sending`.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from http.client import HTTPResponse, IncompleteRead
from urllib.parse import quote, unquote_plus, urlencode, urljoin
from xml.etree import ElementTree

from core.service.config import Settings
from core.service.datasets.images import Refused
from core.service.errors import WebhookUrlRefused
from core.service.webhooks.addresses import Target, parse
from core.service.webhooks.sending import DeliveryFailed, connected

_SECONDS = 60.0
"""Max time for fetching one file, with all redirects."""
_MOST_REDIRECTS = 5
_REDIRECTS = {301, 302, 303, 307, 308}
_PAGE_BYTES, _MOST_PAGES = 2**23, 1000
"""Max size of one page of a bucket's listing, and max number of pages."""
_HEADERS = {"Accept-Encoding": "identity", "User-Agent": "DiffFit"}


@dataclass(frozen=True)
class Rules:
    """Rules of the operator for the URLs of an import."""

    hosts: tuple[str, ...]
    """Patterns of the allowed hosts."""
    allow_private: bool

    @classmethod
    def of(cls, settings: Settings) -> "Rules":
        hosts = tuple(filter(None, settings.dataset_import_hosts.split(",")))
        return cls(hosts, settings.dataset_imports_allow_private)

    def target(self, url: str) -> Target:
        """Parses a URL. Raises Refused if it is invalid, or its host is not allowed."""
        try:
            target = parse(url, allow_private=self.allow_private)
        except WebhookUrlRefused as error:
            raise Refused("url_refused", f"The URL {error.reason}.") from error
        if not any(fnmatchcase(target.host, pattern) for pattern in self.hosts):
            raise Refused("host_refused", f"This service imports nothing from {target.host}. Ask the operator.")
        return target


@dataclass(frozen=True)
class Fetcher:
    """Fetches files on behalf of one tenant."""

    rules: Rules
    tenant: str
    seconds: float = _SECONDS

    def fetch(self, url: str, max_bytes: int) -> bytes:
        """Returns the file at a URL, and follows redirects. Raises Refused, whose detail never contains the URL, since
        it may be signed."""
        deadline = time.monotonic() + self.seconds
        for _ in range(_MOST_REDIRECTS + 1):
            target, left = self.rules.target(url), max(0.0, deadline - time.monotonic())
            try:
                with connected(target, self.tenant, allow_private=self.rules.allow_private, seconds=left) as connection:
                    connection.request("GET", target.path, headers={"Host": target.authority, **_HEADERS})
                    with connection.getresponse() as response:
                        if response.status not in _REDIRECTS:
                            return _body(response, max_bytes)
                        location = response.getheader("Location", "")
            except DeliveryFailed as error:
                timed_out = f"It took longer than {self.seconds:g} s."
                raise Refused(error.code, timed_out if error.code == "timed_out" else error.detail) from error
            try:
                url = urljoin(url, location)
            except ValueError as error:
                raise Refused("url_refused", "It redirects to an invalid URL.") from error
        raise Refused("too_many_redirects", f"It redirects more than {_MOST_REDIRECTS} times.")


def list_bucket(
    fetch: Callable[[str, int], bytes], url: str, prefix: str, most: int, is_wanted: Callable[[], object]
) -> list[tuple[str, str]]:
    """Returns (path, URL) of each file of a public S3 bucket under a prefix. Paths are relative to the prefix. Calls
    `is_wanted` before each request, which may raise. Raises Refused, also for more than `most` files."""
    files: list[tuple[str, str]] = []
    query = {"list-type": "2", "encoding-type": "url", "prefix": prefix}
    for _ in range(_MOST_PAGES):
        is_wanted()
        page = _parsed(fetch(f"{url}?{urlencode(query, quote_via=quote)}", _PAGE_BYTES))
        is_encoded = page.findtext("{*}EncodingType") == "url"
        for entry in page.iterfind("{*}Contents/{*}Key"):
            key = unquote_plus(entry.text or "") if is_encoded else entry.text or ""
            if key.startswith(prefix) and not key.endswith("/"):
                files.append((key.removeprefix(prefix), f"{url}/{quote(key)}"))
        if len(files) > most:
            raise Refused("too_many_files", f"It has more than {most} files under the prefix. Use a longer prefix.")
        token = page.findtext("{*}NextContinuationToken")
        if not token:
            return files
        query["continuation-token"] = token
    raise Refused("listing_invalid", "Its listing does not end.")


def _body(response: HTTPResponse, max_bytes: int) -> bytes:
    """Returns the body of a response. Raises Refused for another status than 200, and for a body that is too large;
    IncompleteRead for one that is shorter than announced."""
    if response.status != 200:
        raise Refused("http_status", f"The server responds with status {response.status}.")
    if response.length is None or response.length <= max_bytes:
        data = response.read(max_bytes + 1)
        if len(data) <= max_bytes:
            if response.length:
                raise IncompleteRead(data, response.length)
            return data
    raise Refused("too_large", f"It has more than {max_bytes:,} bytes. Resize the image.")


def _parsed(page: bytes) -> ElementTree.Element:
    """Parses one page of a bucket's listing. A document type is refused, since its default attributes can make a small
    page take hours. Raises Refused."""
    try:
        text = page.decode("utf-8-sig")
        if "<!DOCTYPE" in text or "\0" in text:  # the parser takes text with NULs for UTF-16, which would hide it
            raise Refused("listing_invalid", "Its listing has a document type.")
        root = ElementTree.fromstring(text)  # noqa: S314  # see above
    except (UnicodeDecodeError, ElementTree.ParseError) as error:
        raise Refused("listing_invalid", "Its listing is not XML.") from error
    if root.tag.rpartition("}")[2] != "ListBucketResult":
        raise Refused("listing_invalid", "Its listing is not that of an S3 bucket.")
    return root
