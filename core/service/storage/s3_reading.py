"""Reader of objects in an S3 bucket, whole or in ranges."""

import io
from typing import IO, Any

from core.service.storage.errors import StorageUnavailable
from core.service.storage.objects import unusable
from core.service.storage.ranged import FIRST_BYTES, ranged_file
from core.service.storage.s3_errors import S3Guard

_TRIES = 3
"""Max attempts to read a response body that is cut off. boto3 itself retries requests, but not the reading of
bodies."""


class S3Reader:
    """Reader of the objects in one bucket. Methods raise NotFound, or StorageUnavailable if a response is missing or
    incomplete."""

    def __init__(self, client: Any, bucket: str, prefix: str) -> None:
        self.client, self.bucket, self.prefix = client, bucket, prefix

    def read(self, key: str, **options: str) -> tuple[dict[str, Any], bytes]:
        """Returns the response and the body of one request for an object; `options` are further arguments, such as
        Range. The body is empty if the range is outside the object, such as any range of an empty object."""
        for tries_left in reversed(range(_TRIES)):
            answer = self._ask(key, options)
            try:
                return answer, _whole(key, answer)
            except StorageUnavailable:
                if not tries_left:
                    raise
        raise AssertionError("the last try returns or raises")

    def open(self, key: str) -> IO[bytes]:
        # Reads the end first: the response contains the object's size, and the end of a zip is its index.
        answer, tail = self.read(key, Range=f"bytes=-{FIRST_BYTES}")
        size = int(answer["ContentRange"].rpartition("/")[2]) if "ContentRange" in answer else len(tail)

        def fetch(start: int, end: int) -> bytes:
            data = self.read(key, Range=f"bytes={start}-{end - 1}")[1]
            if len(data) != end - start:
                raise unusable(f"{len(data)} of {end - start} bytes came")
            return data

        return ranged_file(fetch, size, tail)

    def _ask(self, key: str, options: dict[str, str]) -> dict[str, Any]:
        with S3Guard(key):
            try:
                answer: dict[str, Any] = self.client.get_object(Bucket=self.bucket, Key=self.prefix + key, **options)
            except self.client.exceptions.ClientError as error:
                if error.response.get("Error", {}).get("Code") != "InvalidRange":
                    raise
                return {"Body": io.BytesIO(), "ContentLength": 0}
        return answer


def _whole(key: str, answer: dict[str, Any]) -> bytes:
    with S3Guard(key):
        data: bytes = answer["Body"].read()
    if len(data) != answer["ContentLength"]:
        raise unusable(f"{len(data)} of {answer['ContentLength']} bytes came")
    return data
