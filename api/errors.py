"""Errors that the HTTP layer raises: invalid bodies, exceeded rate limits and budgets, unexpected exceptions."""

from http import HTTPStatus
from typing import Any

from core.artifact.errors import CoreError, InvalidRequest
from core.service.storage.errors import StorageUnavailable


class PayloadTooLarge(CoreError):
    code, status, title = "payload_too_large", 413, "Upload too large"

    def __init__(self, limit_bytes: int) -> None:
        super().__init__(f"The upload exceeds the limit of {limit_bytes:,} bytes. Send a smaller file.")


class RateLimited(CoreError):
    """Error for too many requests of a tenant, or too many wrong API keys from an address, in a minute. `what` names
    which of them. The next request is accepted after `retry_after` seconds."""

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
            f"Your limit is {limit:,} {what} at once. Try again when one has ended.",
            retry_after=5,
        )


class TooManyStreams(CoreError):
    code, status, title = "too_many_streams", 429, "Too many event streams"

    def __init__(self, what: str, limit: int) -> None:
        super().__init__(f"At most {limit:,} {what} may be open at once. Close one, then try again.", retry_after=5)


class ServiceBusy(CoreError):
    """Error for a reached limit that all tenants of the process share, such as the number of event streams."""

    code, status, title = "service_busy", 503, "Service busy"

    def __init__(self, what: str) -> None:
        super().__init__(f"The service has reached its limit of {what}. Try again in some seconds.", retry_after=5)


class UploadSpaceFull(StorageUnavailable):
    """Error for a full disk on the API's machine, where uploads are held in temporary files."""

    code, title = "storage_full", "Storage full"
    sentence = "The service has no disk space for uploads ({reason}). Try again when the operator has made room."


class Conflict(CoreError):
    """Error for a request whose change the database rejected, since a concurrent request changed the same object."""

    code, status, title = "conflict", 409, "Changed by another request"

    def __init__(self) -> None:
        super().__init__("Another request changed the same object at the same time. Read it again, then retry.")


class UnsupportedMediaType(CoreError):
    code, status, title = "unsupported_media_type", 415, "Unsupported media type"

    def __init__(self) -> None:
        super().__init__("The body is not JSON. Send it with 'Content-Type: application/json'.")


class InvalidFields(CoreError):
    """Error for invalid fields. `errors` names each field by its path, such as `body.steps`."""

    code, status, title = InvalidRequest.code, InvalidRequest.status, InvalidRequest.title

    def __init__(self, errors: list[dict[str, Any]]) -> None:
        detail = f"{errors[0]['field']}: {errors[0]['detail']}" if errors else "The request is not valid."
        super().__init__(detail, errors=errors)


class Refused(CoreError):
    """Error for a request that the router or a body parser rejected, with the status that they chose."""

    def __init__(self, status: int, detail: str, headers: dict[str, str]) -> None:
        super().__init__(detail)
        self.headers = headers
        phrase = HTTPStatus(status).phrase
        code = PayloadTooLarge.code if status == PayloadTooLarge.status else phrase.lower().replace(" ", "_")
        self.code, self.status, self.title = code, status, phrase  # type: ignore[misc]  # one class for all statuses


class UnexpectedError(CoreError):
    """Error for an unexpected exception, whose message is logged but not sent to the client."""

    def __init__(self) -> None:
        super().__init__("An unexpected error occurred. Report it with the request_id.")
