"""Object store in a bucket of an S3-compatible service."""

import datetime
import hashlib
import os
from collections.abc import Container, Sequence
from contextlib import suppress
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import IO, Any

from core.artifact.errors import NotFound
from core.service.storage.objects import ListedObject, Part, StoredObject, copy_out, file_digest, unusable, verify
from core.service.storage.s3_errors import S3Guard, require_length
from core.service.storage.s3_reading import S3Reader


class S3Store:
    """Object store in an S3-compatible bucket. The service's own SHA-256 is stored as metadata of each object, since
    not all S3 servers check their own checksums."""

    def __init__(
        self, bucket: str, prefix: str, endpoint_url: str | None, region: str, public_endpoint_url: str | None = None
    ) -> None:
        import boto3  # slow to import, and not needed for a folder
        from botocore.config import Config

        self.bucket, self.prefix = bucket, f"{prefix}/" if prefix else ""
        config = Config(
            connect_timeout=5,
            # A store that hangs is reported as unavailable after a minute: three attempts to upload a part, and three
            # to abort the upload.
            read_timeout=10,
            retries={"max_attempts": 3, "mode": "standard"},
            s3={"addressing_style": "path"} if endpoint_url else {},
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            max_pool_connections=32,
        )
        self.client: Any = boto3.client("s3", endpoint_url=endpoint_url, region_name=region, config=config)
        self.client.meta.events.register("before-parse.s3", require_length)
        self.reader = S3Reader(self.client, bucket, self.prefix)
        # Only this version of signatures covers the part's size and the URL's expiry time.
        signing = config.merge(Config(signature_version="s3v4"))
        public = public_endpoint_url or endpoint_url
        self.signer: Any = boto3.client("s3", endpoint_url=public, region_name=region, config=signing)
        # Clients can reach Amazon's endpoint and a public endpoint; any other may be in a private network.
        self.is_public = public_endpoint_url is not None or endpoint_url is None

    def put(self, key: str, data: bytes) -> StoredObject:
        sha256 = hashlib.sha256(data).hexdigest()
        with S3Guard(key):
            self.client.put_object(Bucket=self.bucket, Key=self.prefix + key, Body=data, Metadata={"sha256": sha256})
        return StoredObject(key, sha256, len(data))

    def put_file(self, key: str, file: IO[bytes]) -> StoredObject:
        sha256, size = file_digest(file)
        extra = {"Metadata": {"sha256": sha256}}
        # `upload_fileobj` closes the file it is given, but the caller's file must stay open.
        with S3Guard(key), os.fdopen(os.dup(file.fileno()), "rb") as copy:
            self.client.upload_fileobj(copy, self.bucket, self.prefix + key, ExtraArgs=extra)
        return StoredObject(key, sha256, size)

    def get(self, key: str, sha256: str | None = None) -> bytes:
        answer, data = self.reader.read(key)
        verify(key, hashlib.sha256(data).hexdigest(), sha256 or answer["Metadata"].get("sha256"))
        return data

    def download(self, key: str, path: Path, sha256: str | None = None) -> None:
        copy_out(key, self.open(key), path, sha256)

    def delete(self, keys: Sequence[str]) -> None:
        for start in range(0, len(keys), 1000):
            objects = [{"Key": self.prefix + key} for key in keys[start : start + 1000]]
            with S3Guard(keys[start]):
                answer = self.client.delete_objects(Bucket=self.bucket, Delete={"Objects": objects, "Quiet": True})
            if answer.get("Errors"):  # reported in the response's body, with status 200
                raise unusable(f"it failed to delete {len(answer['Errors'])} objects")

    def list(self, prefix: str) -> list[str]:
        with S3Guard(prefix):
            pages = self.client.get_paginator("list_objects_v2").paginate(
                Bucket=self.bucket, Prefix=self.prefix + prefix
            )
            return [item["Key"].removeprefix(self.prefix) for page in pages for item in page.get("Contents", [])]

    def page(self, prefix: str, after: str, limit: int) -> Sequence[ListedObject]:
        start = {"StartAfter": self.prefix + after} if after else {}
        with S3Guard(prefix):
            page = self.client.list_objects_v2(Bucket=self.bucket, Prefix=self.prefix + prefix, MaxKeys=limit, **start)
        now = _now(page)
        return [
            ListedObject(
                item["Key"].removeprefix(self.prefix), (now - item["LastModified"]).total_seconds(), item["Size"]
            )
            for item in page.get("Contents", [])
        ]

    def open(self, key: str) -> IO[bytes]:
        return self.reader.open(key)

    def begin_parts(self, key: str) -> str:
        with S3Guard(key):
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
        with S3Guard(key):
            answer = self.client.upload_part(**self._upload(key, upload), PartNumber=number, Body=file)
        if "ETag" not in answer:
            raise unusable("its response was interrupted")
        return Part(number, size, answer["ETag"].strip('"'))

    def parts(self, key: str, upload: str) -> Sequence[Part]:
        with S3Guard(key):
            pages = self.client.get_paginator("list_parts").paginate(**self._upload(key, upload))
            return [
                Part(part["PartNumber"], part["Size"], part["ETag"].strip('"'))
                for page in pages
                for part in page.get("Parts", [])
            ]

    def join_parts(self, key: str, upload: str, parts: Sequence[Part]) -> None:
        named = [{"PartNumber": part.number, "ETag": f'"{part.etag}"'} for part in parts]
        with S3Guard(key):
            self.client.complete_multipart_upload(**self._upload(key, upload), MultipartUpload={"Parts": named})

    def drop_upload(self, key: str, upload: str) -> None:
        with suppress(NotFound), S3Guard(key):
            self.client.abort_multipart_upload(**self._upload(key, upload))

    def drop_parts(self, prefix: str, older_than_seconds: float, held: Container[str] = ()) -> int:
        age = datetime.timedelta(seconds=older_than_seconds)
        with S3Guard(self.bucket):
            listed = self.client.get_paginator("list_multipart_uploads")
            pages = listed.paginate(Bucket=self.bucket, Prefix=self.prefix + prefix)
            left = [
                (upload["Key"].removeprefix(self.prefix), upload["UploadId"])
                for page in pages
                for upload in page.get("Uploads", [])
                if upload["Initiated"] < _now(page) - age
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
        with S3Guard(self.bucket):
            self.client.head_bucket(Bucket=self.bucket)

    def create_bucket(self) -> None:
        """Creates the bucket unless it exists."""
        with S3Guard(self.bucket):
            if self.bucket not in {bucket["Name"] for bucket in self.client.list_buckets()["Buckets"]}:
                self.client.create_bucket(Bucket=self.bucket)


def _now(answer: dict[str, Any]) -> datetime.datetime:
    """Returns the store's current time from the response's Date header, to compute the age of objects, whose dates the
    store sets. Without the header, returns this host's time."""
    told = answer["ResponseMetadata"]["HTTPHeaders"].get("date")
    return parsedate_to_datetime(told) if told else datetime.datetime.now(datetime.UTC)
