"""Object store for adapters, zips of data sets, checkpoints and images, in an S3 bucket or in a folder. `get` and
`download` check an object's bytes against the SHA-256 that the caller expects."""

from pathlib import Path
from urllib.parse import unquote, urlparse

from core.service.config import Settings
from core.service.storage.folder import FolderStore
from core.service.storage.objects import ListedObject, ObjectStore, Part, StoredObject, file_digest, verify
from core.service.storage.s3 import S3Store

__all__ = [
    "FolderStore",
    "ListedObject",
    "ObjectStore",
    "Part",
    "S3Store",
    "StoredObject",
    "file_digest",
    "open_store",
    "verify",
]


def open_store(settings: Settings) -> ObjectStore:
    """Returns the object store that the settings configure: a folder for `file:///folder`, or a bucket for
    `s3://bucket/prefix`."""
    url = urlparse(settings.storage_url)
    if url.scheme == "file":
        return FolderStore(Path(unquote(url.path)))
    endpoints = settings.s3_endpoint_url, settings.s3_region, settings.s3_public_endpoint_url
    return S3Store(url.netloc, url.path.strip("/"), *endpoints)
