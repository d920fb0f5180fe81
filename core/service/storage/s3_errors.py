"""Conversion of an S3 client's errors to the service's own errors."""

from http.client import HTTPException
from typing import Any

from core.service.storage.objects import missing, unusable

_NO_CONTENT = 204
_FULL_CODES = {"QuotaExceeded", "XMinioStorageFull"}
_MISSING_CODES = {"NoSuchKey", "NoSuchUpload", "404"}
_OPERATOR_CODES = {
    "403": "it forbids that",
    "AccessDenied": "the credentials lack a permission",
    "AllAccessDisabled": "all access is disabled",
    "ExpiredToken": "the credentials have expired",
    "InvalidAccessKeyId": "it does not know the access key",
    "InvalidToken": "it does not know the session token",
    "NoSuchBucket": "the bucket does not exist",
    "PermanentRedirect": "the bucket is in another region",
    "RequestTimeTooSkewed": "this host's clock is wrong",
    "SignatureDoesNotMatch": "the secret key is wrong",
}
"""Causes of rejections by S3 error code. Each lasts until an operator changes something."""


def require_length(operation_model: Any, response_dict: dict[str, Any], **_: object) -> None:
    """Raises StorageUnavailable for a response that was cut off within its headers. boto3 calls this before it parses a
    response; it would parse the missing body as an empty list."""
    headers = response_dict["headers"]
    needs_none = operation_model.http["method"] == "HEAD" or response_dict["status_code"] == _NO_CONTENT
    if not (needs_none or "Content-Length" in headers or "Transfer-Encoding" in headers):
        raise unusable("its answer broke off")


class S3Guard:
    """Context manager that converts all errors of an S3 call to NotFound or StorageUnavailable. Besides boto3's errors
    it converts those of urllib3, http.client and sockets, which boto3 does not always wrap."""

    def __init__(self, key: str) -> None:
        self.key = key

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is None:
            return
        from boto3.exceptions import Boto3Error
        from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError
        from urllib3.exceptions import HTTPError

        if isinstance(error, ClientError):
            code = str(error.response.get("Error", {}).get("Code", ""))
            if code in _MISSING_CODES:
                raise missing(self.key) from error
            if (reason := _OPERATOR_CODES.get(code)) is not None:
                raise unusable(f"{code}: {reason}", kind="refused") from error
            raise unusable(f"it answered {code}", kind="full" if code in _FULL_CODES else "away") from error
        if isinstance(error, NoCredentialsError):
            raise unusable("there are no credentials", kind="refused") from error
        if isinstance(error, (BotoCoreError, Boto3Error, HTTPError, HTTPException, OSError)):
            raise unusable(type(error).__name__) from error
