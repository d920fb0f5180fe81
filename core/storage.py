"""Objects: adapters, archives, checkpoints, images. On S3 or in a folder, our own SHA-256 checked on every read."""

import errno
import hashlib
import os
import shutil
import time
import uuid
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol
from urllib.parse import unquote, urlparse

from core.config import Settings, get_settings
from core.errors import ChecksumMismatch, NotFound, StorageFull, StorageUnavailable

_CHUNK = 2**20
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_FULL_CODES = {"QuotaExceeded", "XMinioStorageFull"}


@dataclass(frozen=True)
class StoredObject:
    key: str
    sha256: str
    size: int


@dataclass(frozen=True)
class ListedObject:
    key: str
    age_seconds: float


class ObjectStore(Protocol):
    """Keys are paths with forward slashes. Every method raises StorageUnavailable when the store does not answer."""

    def put(self, key: str, data: bytes) -> StoredObject: ...

    def put_file(self, key: str, file: IO[bytes]) -> StoredObject:
        """Stores an open file from its beginning."""
        ...

    def get(self, key: str, sha256: str | None = None) -> bytes:
        """The object's bytes. Raises NotFound, or ChecksumMismatch when they are not those of `sha256`."""
        ...

    def download(self, key: str, path: Path, sha256: str | None = None) -> None:
        """The same into a file."""
        ...

    def delete_prefix(self, prefix: str) -> int:
        """Removes every object whose key begins so; how many there were."""
        ...

    def delete(self, keys: Sequence[str]) -> None:
        """Removes objects; one that is not there is no error."""
        ...

    def list(self, prefix: str) -> list[str]: ...

    def page(self, prefix: str, after: str, limit: int) -> Sequence[ListedObject]:
        """The first objects in the order of their keys, at most 1,000, behind the key `after`; also what a broken
        write left."""
        ...

    def drop_parts(self, older_than_seconds: float) -> int:
        """Removes the parts of uploads that nobody goes on with; how many uploads there were."""
        ...

    def check(self) -> None:
        """Raises StorageUnavailable unless the store can be used."""
        ...


def open_store(settings: Settings) -> ObjectStore:
    """`file:///folder` or `s3://bucket/prefix`. Raises ValueError for another kind of URL."""
    url = urlparse(settings.storage_url)
    if url.scheme == "file":
        return FolderStore(Path(unquote(url.path)))
    if url.scheme == "s3":
        return S3Store(url.netloc, url.path.strip("/"), settings.s3_endpoint_url, settings.s3_region)
    raise ValueError(f"DIFFFIT_STORAGE_URL must begin with file:// or s3://, not '{settings.storage_url}'")


class FolderStore:
    """A folder. An object appears in one move, when all of it is on the disk."""

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()

    def put(self, key: str, data: bytes) -> StoredObject:
        path = self._path(key)
        with _Guard(), _Partial(path) as file:
            file.write(data)
        return StoredObject(key, hashlib.sha256(data).hexdigest(), len(data))

    def put_file(self, key: str, file: IO[bytes]) -> StoredObject:
        sha256, size = file_digest(file)
        with _Guard(), _Partial(self._path(key)) as target:
            shutil.copyfileobj(file, target, _CHUNK)
        return StoredObject(key, sha256, size)

    def get(self, key: str, sha256: str | None = None) -> bytes:
        with _Guard(reading=key):
            data = self._path(key).read_bytes()
        _verify(key, hashlib.sha256(data).hexdigest(), sha256)
        return data

    def download(self, key: str, path: Path, sha256: str | None = None) -> None:
        with _Guard(reading=key):
            shutil.copyfile(self._path(key), path)
        with path.open("rb") as file:
            _verify(key, file_digest(file)[0], sha256)

    def delete_prefix(self, prefix: str) -> int:
        keys = self.list(prefix)
        self.delete(keys)
        return len(keys)

    def delete(self, keys: Sequence[str]) -> None:
        with _Guard():
            for key in keys:
                path = self._path(key)
                path.unlink(missing_ok=True)
                for parent in path.parents:
                    if parent == self.root or not parent.is_dir() or any(parent.iterdir()):
                        break
                    parent.rmdir()

    def list(self, prefix: str) -> list[str]:
        return [key for key in self._keys(prefix) if not key.endswith(".partial")]

    def page(self, prefix: str, after: str, limit: int) -> Sequence[ListedObject]:
        keys = [key for key in self._keys(prefix) if key > after][:limit]
        return [ListedObject(key, _age(self._path(key))) for key in keys]

    def drop_parts(self, older_than_seconds: float) -> int:  # noqa: ARG002  # as the protocol has it
        """None: what a broken write left is a file of its own, which `page` shows."""
        return 0

    def _keys(self, prefix: str) -> Sequence[str]:
        start = self._path(prefix)
        folder = start if start.is_dir() else start.parent
        files = (path.relative_to(self.root).as_posix() for path in folder.rglob("*") if path.is_file())
        return sorted(key for key in files if key.startswith(prefix))

    def check(self) -> None:
        with _Guard():
            self.root.mkdir(parents=True, exist_ok=True)
            if not os.access(self.root, os.W_OK):
                raise StorageUnavailable(f"{self.root} cannot be written")

    def _path(self, key: str) -> Path:
        path = (self.root / key).resolve()
        if not path.is_relative_to(self.root):
            raise ValueError(f"key outside of the store: {key}")
        return path


class S3Store:
    """An S3-compatible bucket. Our SHA-256 travels beside the object: not all servers check their own checksums."""

    def __init__(self, bucket: str, prefix: str, endpoint_url: str | None, region: str) -> None:
        import boto3  # slow to import, and not needed for a folder
        from botocore.config import Config

        self.bucket, self.prefix = bucket, f"{prefix}/" if prefix else ""
        config = Config(
            connect_timeout=5,
            read_timeout=20,
            retries={"max_attempts": 3, "mode": "standard"},  # a store that freezes is told to be away after a minute
            s3={"addressing_style": "path"} if endpoint_url else {},
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            max_pool_connections=32,
        )
        self.client: Any = boto3.client("s3", endpoint_url=endpoint_url, region_name=region, config=config)

    def put(self, key: str, data: bytes) -> StoredObject:
        sha256 = hashlib.sha256(data).hexdigest()
        with _S3Guard(key):
            self.client.put_object(Bucket=self.bucket, Key=self.prefix + key, Body=data, Metadata={"sha256": sha256})
        return StoredObject(key, sha256, len(data))

    def put_file(self, key: str, file: IO[bytes]) -> StoredObject:
        sha256, size = file_digest(file)
        extra = {"Metadata": {"sha256": sha256}}
        # A transfer closes the file that it was given; the caller's stays open.
        with _S3Guard(key), os.fdopen(os.dup(file.fileno()), "rb") as copy:
            self.client.upload_fileobj(copy, self.bucket, self.prefix + key, ExtraArgs=extra)
        return StoredObject(key, sha256, size)

    def get(self, key: str, sha256: str | None = None) -> bytes:
        with _S3Guard(key):
            answer = self.client.get_object(Bucket=self.bucket, Key=self.prefix + key)
            data: bytes = answer["Body"].read()
        _verify(key, hashlib.sha256(data).hexdigest(), sha256 or answer["Metadata"].get("sha256"))
        return data

    def download(self, key: str, path: Path, sha256: str | None = None) -> None:
        with _S3Guard(key):
            self.client.download_file(self.bucket, self.prefix + key, str(path))
        with path.open("rb") as file:
            _verify(key, file_digest(file)[0], sha256)

    def delete_prefix(self, prefix: str) -> int:
        keys = self.list(prefix)
        self.delete(keys)
        return len(keys)

    def delete(self, keys: Sequence[str]) -> None:
        for start in range(0, len(keys), 1000):
            objects = [{"Key": self.prefix + key} for key in keys[start : start + 1000]]
            with _S3Guard(keys[start]):
                answer = self.client.delete_objects(Bucket=self.bucket, Delete={"Objects": objects, "Quiet": True})
            if answer.get("Errors"):  # told in the answer's body, with status 200
                raise StorageUnavailable(f"it kept {len(answer['Errors'])} objects")

    def list(self, prefix: str) -> list[str]:
        with _S3Guard(prefix):
            pages = self.client.get_paginator("list_objects_v2").paginate(
                Bucket=self.bucket, Prefix=self.prefix + prefix
            )
            return [item["Key"].removeprefix(self.prefix) for page in pages for item in page.get("Contents", [])]

    def page(self, prefix: str, after: str, limit: int) -> Sequence[ListedObject]:
        start = {"StartAfter": self.prefix + after} if after else {}
        with _S3Guard(prefix):
            page = self.client.list_objects_v2(Bucket=self.bucket, Prefix=self.prefix + prefix, MaxKeys=limit, **start)
        now = time.time()
        found = page.get("Contents", [])
        return [
            ListedObject(item["Key"].removeprefix(self.prefix), now - item["LastModified"].timestamp())
            for item in found
        ]

    def drop_parts(self, older_than_seconds: float) -> int:
        before = time.time() - older_than_seconds
        with _S3Guard(self.bucket):
            pages = self.client.get_paginator("list_multipart_uploads").paginate(Bucket=self.bucket, Prefix=self.prefix)
            uploads = [upload for page in pages for upload in page.get("Uploads", [])]
            left = [upload for upload in uploads if upload["Initiated"].timestamp() < before]
            for upload in left:
                self.client.abort_multipart_upload(Bucket=self.bucket, Key=upload["Key"], UploadId=upload["UploadId"])
        return len(left)

    def check(self) -> None:
        try:
            self._head()
        except NotFound as error:
            raise StorageUnavailable(f"there is no bucket '{self.bucket}'") from error

    def _head(self) -> None:
        with _S3Guard(self.bucket):
            self.client.head_bucket(Bucket=self.bucket)

    def create_bucket(self) -> None:
        """Makes the bucket unless it is there."""
        with _S3Guard(self.bucket):
            if self.bucket not in {bucket["Name"] for bucket in self.client.list_buckets()["Buckets"]}:
                self.client.create_bucket(Bucket=self.bucket)


def file_digest(file: IO[bytes]) -> tuple[str, int]:
    """SHA-256 and size of an open file; leaves it at its beginning."""
    file.seek(0)
    digest, size = hashlib.sha256(), 0
    while chunk := file.read(_CHUNK):
        digest.update(chunk)
        size += len(chunk)
    file.seek(0)
    return digest.hexdigest(), size


def _verify(key: str, found: str, expected: str | None) -> None:
    if expected is not None and found != expected:
        raise ChecksumMismatch(key)


def _age(path: Path) -> float:
    """Seconds; 0 when the file is gone meanwhile."""
    try:
        return time.time() - path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


class _Partial:
    """A file beside its target that takes its place in one move, or is removed on an error."""

    def __init__(self, target: Path) -> None:
        self.target = target
        self.partial = target.with_name(f"{target.name}.{uuid.uuid4().hex}.partial")

    def __enter__(self) -> IO[bytes]:
        self.target.parent.mkdir(parents=True, exist_ok=True)
        self.file = self.partial.open("wb")
        return self.file

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        try:
            self.file.flush()
            os.fsync(self.file.fileno())
            self.file.close()
            if kind is None:
                self.partial.replace(self.target)
        finally:
            with suppress(OSError):  # on a full disk it would flush once more
                self.file.close()
            self.partial.unlink(missing_ok=True)


class _Guard:
    """Turns the operating system's errors into StorageUnavailable, or NotFound where `reading` names the object."""

    def __init__(self, reading: str | None = None) -> None:
        self.reading = reading

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if self.reading is not None and isinstance(error, FileNotFoundError | IsADirectoryError | NotADirectoryError):
            raise NotFound("object", self.reading) from error
        if isinstance(error, OSError):
            unusable = StorageFull if error.errno in _FULL else StorageUnavailable
            raise unusable(error.strerror or str(error)) from error


class _S3Guard:
    """Turns boto3's errors into ours."""

    def __init__(self, key: str) -> None:
        self.key = key

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        from boto3.exceptions import S3UploadFailedError
        from botocore.exceptions import BotoCoreError, ClientError

        if isinstance(error, ClientError):
            code = error.response.get("Error", {}).get("Code", "")
            if code in {"NoSuchKey", "404"}:
                raise NotFound("object", self.key) from error
            raise (StorageFull if code in _FULL_CODES else StorageUnavailable)(f"it answered {code}") from error
        if isinstance(error, (BotoCoreError, S3UploadFailedError)):
            raise StorageUnavailable(type(error).__name__) from error


def main() -> None:
    """`python -m core.storage`: makes the bucket or folder of DIFFFIT_STORAGE_URL when it is not there."""
    store = open_store(get_settings())
    if isinstance(store, S3Store):
        store.create_bucket()
    store.check()
    print("The object store can be used.")


if __name__ == "__main__":
    main()
