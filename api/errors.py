"""Errors of HTTP itself: bodies, limits and budgets of requests."""

from http import HTTPStatus
from typing import Any

from core.artifact.errors import CoreError, InvalidRequest
from core.service.storage.errors import StorageUnavailable


class PayloadTooLarge(CoreError):
    code, status, title = "payload_too_large", 413, "Upload too large"

    def __init__(self, limit_bytes: int) -> None:
        super().__init__(f"The upload exceeds the limit of {limit_bytes:,} bytes. Send a smaller file.")


class RateLimited(CoreError):
    """Too many `what` per minute. The next is accepted after `retry_after` seconds."""

    code, status, title = "rate_limited", 429, "Too many requests"

    def __init__(self, what: str, limit: int, retry_after: int) -> None:
        super().__init__(
            f"More than {limit} {what} per minute. Try again in {retry_after} s.",
            retry_after=retry_after,
        )


class TooManyTransfers(CoreError):
    code, status, title = "too_many_transfers", 429, "Too many uploads and downloads at once"

    def __init__(self, what: str, limit: int) -> None:
        super().__init__(
            f"At most {limit:,} {what} may run at once. Try again when one has ended.",
            retry_after=5,
        )


class TooManyStreams(CoreError):
    code, status, title = "too_many_streams", 429, "Too many event streams"

    def __init__(self, what: str, limit: int) -> None:
        super().__init__(f"At most {limit:,} {what} may be open at once. Close one, then try again.", retry_after=5)


class ServiceBusy(CoreError):
    """The limit of the process is reached, not that of the tenant."""

    code, status, title = "service_busy", 503, "Service busy"

    def __init__(self, what: str) -> None:
        super().__init__(f"The service cannot take more {what} now. Try again.", retry_after=5)


class UploadSpaceFull(StorageUnavailable):
    """The API's own disk is full, where uploads are spooled."""

    code, title = "storage_full", "Storage full"
    sentence = "The service has no disk space for uploads ({reason}). Try again when the operator has made room."


class Conflict(CoreError):
    """Two concurrent requests changed the same object, and the database rejected this one."""

    code, status, title = "conflict", 409, "Changed by another request"

    def __init__(self) -> None:
        super().__init__("Another request changed the same object at the same time. Read it again, then retry.")


class UnsupportedMediaType(CoreError):
    code, status, title = "unsupported_media_type", 415, "Unsupported media type"

    def __init__(self) -> None:
        super().__init__("The body is not JSON. Send it with 'Content-Type: application/json'.")


class InvalidFields(CoreError):
    """Invalid fields, each named by its path, such as `body.steps`."""

    code, status, title = InvalidRequest.code, InvalidRequest.status, InvalidRequest.title

    def __init__(self, errors: list[dict[str, Any]]) -> None:
        detail = f"{errors[0]['field']}: {errors[0]['detail']}" if errors else "The request is not valid."
        super().__init__(detail, errors=errors)


class Refused(CoreError):
    """Rejection by the router or a body parser, with its own status."""

    def __init__(self, status: int, detail: str, headers: dict[str, str]) -> None:
        super().__init__(detail)
        self.headers = headers
        phrase = HTTPStatus(status).phrase
        code = PayloadTooLarge.code if status == PayloadTooLarge.status else phrase.lower().replace(" ", "_")
        self.code, self.status, self.title = code, status, phrase  # type: ignore[misc]  # one class for all statuses


class UnexpectedError(CoreError):
    """Unexpected error. Its message is only logged."""

    def __init__(self) -> None:
        super().__init__("An unexpected error occurred. Report it with the request_id.")
