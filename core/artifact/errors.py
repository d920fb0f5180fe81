"""Errors that the service and the model code share, and the root class of all errors. Each class has a stable `code`
and an HTTP status; each error has a `detail` that explains what happened and what to do. The API returns errors as
problem details (RFC 9457); a failed job stores the code and the detail."""

from typing import Any, ClassVar


class CoreError(Exception):
    """Root class of the project's errors. Subclasses take typed arguments and build `detail` from them."""

    code: ClassVar[str] = "internal_error"
    status: ClassVar[int] = 500
    title: ClassVar[str] = "Internal error"

    def __init__(
        self,
        detail: str,
        *,
        errors: list[dict[str, Any]] | None = None,
        retry_after: int | None = None,
        limit: tuple[str, int] | None = None,
    ) -> None:
        """Creates an error with the text `detail`. `errors` lists the invalid fields of a request. `retry_after` is the
        number of seconds after which the same request may succeed. `limit` is the name and value of the limit that was
        reached."""
        super().__init__(detail)
        self.detail = detail
        self.errors = errors or []
        self.retry_after = retry_after
        self.limit = limit


class NotFound(CoreError):
    code, status, title = "not_found", 404, "Not found"

    def __init__(self, kind: str, id: str) -> None:
        super().__init__(f"There is no {kind} '{id}'.")


class InvalidRequest(CoreError):
    code, status, title = "invalid_request", 422, "Invalid request"

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}", errors=[{"field": field, "detail": reason}])


class ArtifactInvalid(CoreError):
    code, status, title = "artifact_invalid", 422, "The adapter file cannot be used"


class BaseMismatch(CoreError):
    code, status, title = "base_mismatch", 409, "Adapter trained on another base"

    def __init__(self, adapter_base: str, base: str) -> None:
        super().__init__(
            f"The adapter was trained on the base {adapter_base[:12]}, but the service has {base[:12]}. "
            "Start a fine-tune on the domain's stored data set to retrain it."
        )


class UnknownClass(CoreError):
    code, status, title = "unknown_class", 422, "Unknown class"

    def __init__(self, name: str, known: list[str]) -> None:
        some = ", ".join(known[:20]) + (", …" if len(known) > 20 else "")
        super().__init__(f"The adapter has no class '{name}'. Its classes are: {some}.")


class ChecksumMismatch(CoreError):
    code, status, title = "checksum_mismatch", 500, "Stored object damaged"

    def __init__(self) -> None:
        super().__init__("The stored file is damaged. Send the id of this request or job to the operator.")


class Cancelled(CoreError):
    code, status, title = "cancelled", 409, "Cancelled"

    def __init__(self) -> None:
        super().__init__("The job was cancelled.")


class QueueFull(CoreError):
    code, status, title = "queue_full", 429, "Too much work waiting"

    def __init__(self, waiting: int, limit: int, retry_after: int = 5) -> None:
        super().__init__(
            f"{waiting} requests are waiting already. Try again in {retry_after} s.",
            retry_after=retry_after,
            limit=("queued_generations", limit),
        )


class EngineStopped(CoreError):
    code, status, title = "engine_stopped", 503, "Worker is stopping"

    def __init__(self, detail: str = "The worker is stopping; its jobs continue on other workers.") -> None:
        super().__init__(detail)


class DeviceLost(EngineStopped):
    """Raised when the GPU or CPU of a worker process cannot compute any more. No job has caused this, so all jobs of
    the process continue on other workers."""

    code, title = "device_lost", "Device lost"

    def __init__(self, reason: str) -> None:
        super().__init__(f"The worker's device failed ({reason}); its jobs continue on other workers.")
