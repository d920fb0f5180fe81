"""Objects in a bucket of an S3-compatible store."""

import hashlib
import io
import os
import time
from collections.abc import Container, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from core.errors import NotFound
from core.storage.objects import ListedObject, Part, StoredObject, file_digest, unusable, verify

_READ_AHEAD = 2**16
_FULL_CODES = {"QuotaExceeded", "XMinioStorageFull"}


class S3Store:
    """An S3-compatible bucket. Our SHA-256 travels beside the object: not all servers check their own checksums."""

    def __init__(
        self, bucket: str, prefix: str, endpoint_url: str | None, region: str, public_endpoint_url: str | None = None
    ) -> None:
        import boto3  # slow to import, and not needed for a folder
        from botocore.config import Config

        self.bucket, self.prefix = bucket, f"{prefix}/" if prefix else ""
        config = Config(
            connect_timeout=5,
            # A store that freezes is told to be away after a minute: three tries of a part, and three to give it up.
            read_timeout=10,
            retries={"max_attempts": 3, "mode": "standard"},
            s3={"addressing_style": "path"} if endpoint_url else {},
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            max_pool_connections=32,
        )
        self.client: Any = boto3.client("s3", endpoint_url=endpoint_url, region_name=region, config=config)
        # Only with this version are the part's size and the time of expiry signed.
        signing = config.merge(Config(signature_version="s3v4"))
        public = public_endpoint_url or endpoint_url
        self.signer: Any = boto3.client("s3", endpoint_url=public, region_name=region, config=signing)
        # An endpoint of our own network is none that clients reach; Amazon's is.
        self.is_public = public_endpoint_url is not None or endpoint_url is None

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
        verify(key, hashlib.sha256(data).hexdigest(), sha256 or answer["Metadata"].get("sha256"))
        return data

    def download(self, key: str, path: Path, sha256: str | None = None) -> None:
        with _S3Guard(key):
            self.client.download_file(self.bucket, self.prefix + key, str(path))
        with path.open("rb") as file:
            verify(key, file_digest(file)[0], sha256)

    def delete(self, keys: Sequence[str]) -> None:
        for start in range(0, len(keys), 1000):
            objects = [{"Key": self.prefix + key} for key in keys[start : start + 1000]]
            with _S3Guard(keys[start]):
                answer = self.client.delete_objects(Bucket=self.bucket, Delete={"Objects": objects, "Quiet": True})
            if answer.get("Errors"):  # told in the answer's body, with status 200
                raise unusable(f"it kept {len(answer['Errors'])} objects")

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
            ListedObject(item["Key"].removeprefix(self.prefix), now - item["LastModified"].timestamp(), item["Size"])
            for item in found
        ]

    def open(self, key: str) -> IO[bytes]:
        with _S3Guard(key):
            size: int = self.client.head_object(Bucket=self.bucket, Key=self.prefix + key)["ContentLength"]
        return io.BufferedReader(_Ranged(self, key, size), _READ_AHEAD)

    def begin_parts(self, key: str) -> str:
        with _S3Guard(key):
            answer = self.client.create_multipart_upload(Bucket=self.bucket, Key=self.prefix + key)
        return str(answer["UploadId"])

    def part_url(self, key: str, upload: str, number: int, size: int, seconds: int) -> str | None:
        if not self.is_public:
            return None
        wanted = {**self._upload(key, upload), "PartNumber": number, "ContentLength": size}
        return str(self.signer.generate_presigned_url("upload_part", wanted, ExpiresIn=seconds))

    def put_part(self, key: str, upload: str, number: int, file: IO[bytes]) -> Part:
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        with _S3Guard(key):
            answer = self.client.upload_part(**self._upload(key, upload), PartNumber=number, Body=file)
        return Part(number, size, answer["ETag"].strip('"'))

    def parts(self, key: str, upload: str) -> Sequence[Part]:
        with _S3Guard(key):
            pages = self.client.get_paginator("list_parts").paginate(**self._upload(key, upload))
            return [
                Part(part["PartNumber"], part["Size"], part["ETag"].strip('"'))
                for page in pages
                for part in page.get("Parts", [])
            ]

    def join_parts(self, key: str, upload: str, parts: Sequence[Part]) -> None:
        named = [{"PartNumber": part.number, "ETag": f'"{part.etag}"'} for part in parts]
        with _S3Guard(key):
            self.client.complete_multipart_upload(**self._upload(key, upload), MultipartUpload={"Parts": named})

    def drop_upload(self, key: str, upload: str) -> None:
        with suppress(NotFound), _S3Guard(key):
            self.client.abort_multipart_upload(**self._upload(key, upload))

    def drop_parts(self, prefix: str, older_than_seconds: float, held: Container[str] = ()) -> int:
        before = time.time() - older_than_seconds
        with _S3Guard(self.bucket):
            listed = self.client.get_paginator("list_multipart_uploads")
            pages = listed.paginate(Bucket=self.bucket, Prefix=self.prefix + prefix)
            uploads = [upload for page in pages for upload in page.get("Uploads", [])]
        left = [
            (upload["Key"].removeprefix(self.prefix), upload["UploadId"])
            for upload in uploads
            if upload["Initiated"].timestamp() < before
        ]
        left = [(key, upload) for key, upload in left if key not in held]
        for key, upload in left:
            self.drop_upload(key, upload)
        return len(left)

    def _upload(self, key: str, upload: str) -> dict[str, Any]:
        return {"Bucket": self.bucket, "Key": self.prefix + key, "UploadId": upload}

    def check(self) -> None:
        try:
            self._head()
        except NotFound as error:
            raise unusable(f"there is no bucket '{self.bucket}'") from error

    def _head(self) -> None:
        with _S3Guard(self.bucket):
            self.client.head_bucket(Bucket=self.bucket)

    def create_bucket(self) -> None:
        """Makes the bucket unless it is there."""
        with _S3Guard(self.bucket):
            if self.bucket not in {bucket["Name"] for bucket in self.client.list_buckets()["Buckets"]}:
                self.client.create_bucket(Bucket=self.bucket)


class _Ranged(io.RawIOBase):
    """An object of which only the pieces that are read are fetched."""

    def __init__(self, store: S3Store, key: str, size: int) -> None:
        self.store, self.key, self.size, self._position = store, key, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self.size}[whence]
        if start + offset < 0:
            raise ValueError("before the object's beginning")
        self._position = start + offset
        return self._position

    def readinto(self, buffer: Any) -> int:
        last = min(self._position + len(buffer), self.size) - 1
        if last < self._position:
            return 0
        wanted = {"Bucket": self.store.bucket, "Key": self.store.prefix + self.key}
        with _S3Guard(self.key):
            answer = self.store.client.get_object(**wanted, Range=f"bytes={self._position}-{last}")
            data: bytes = answer["Body"].read()
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)


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
            if code in {"NoSuchKey", "NoSuchUpload", "404"}:
                raise NotFound("object", self.key) from error
            raise unusable(f"it answered {code}", full=code in _FULL_CODES) from error
        if isinstance(error, (BotoCoreError, S3UploadFailedError)):
            raise unusable(type(error).__name__) from error
