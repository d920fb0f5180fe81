"""Exceptions of the SDK. `except DiffFitError` catches all of them.

DiffFitError
├── NotConfigured         there is no API key, or the settings cannot be read
├── InvalidInput          the input cannot be used: a folder without images, an empty id, a PNG without settings
├── Missing               nothing has the name that was given
├── ConnectionFailed      the server could not be reached, or did not answer in time
├── WaitTimeout           the job has not ended within the timeout
├── JobFailed             a data set was rejected; a fine-tune or a generation failed or was cancelled
├── BadDownload           the downloaded bytes do not match their SHA-256
├── UnexpectedAnswer      a successful response does not match this version of the SDK
└── ApiError              the server rejected the request; it has `status`, `code`, `errors`, `request_id`
    ├── InvalidRequest    400, 413, 415, 422
    ├── Unauthenticated   401
    ├── Forbidden         403
    ├── NotFound          404
    ├── Conflict          409
    │   ├── NameTaken, NoActiveAdapter, BaseMismatch
    ├── TooManyRequests   429, with `retry_after`
    └── ServerError       500 and above
"""

from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:  # imported when needed, since the command's help would wait for them
    import httpx

    from difffit.models import Dataset, Finetune, Generation, Problem


class DiffFitError(Exception):
    """Base class of all exceptions of the SDK. `title` names the kind of error; `detail` explains what happened and
    what to do."""

    title: str = "Error"

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail


class NotConfigured(DiffFitError):
    title = "Not configured"


class InvalidInput(DiffFitError, ValueError):
    title = "Invalid input"


class Missing(DiffFitError):
    title, code, status = "Not found", "not_found", 404


class ConnectionFailed(DiffFitError):
    title = "No connection"

    def __init__(self, url: str, reason: str) -> None:
        super().__init__(f"{url} does not respond ({reason}). Check the address, and that the server runs.")
        self.url = url


class WaitTimeout(DiffFitError, TimeoutError):
    title = "Not finished yet"

    def __init__(self, id: str, status: str, seconds: float) -> None:
        super().__init__(f"{id} is still {status} after {seconds:g} s. It continues on the server; wait for it again.")


class JobFailed(DiffFitError):
    """Raised when a job ended without success. `job` is the job's final state; `code` is a stable identifier of the
    reason."""

    def __init__(self, kind: str, job: "Dataset | Finetune | Generation") -> None:
        super().__init__(job.error.detail if job.error else f"{job.id} was {job.status}.")
        self.title = f"{kind} {job.status}"
        self.job = job
        self.code = job.error.code if job.error else job.status


class BadDownload(DiffFitError):
    title = "Damaged download"

    def __init__(self, name: str) -> None:
        super().__init__(f"The bytes of {name} do not match its digest. Download it again.")


class UnexpectedAnswer(DiffFitError):
    title = "Unexpected response"

    def __init__(self, url: str, reason: str) -> None:
        super().__init__(
            f"The response of {url} does not match this version of the API: {reason} "
            "Check the address, or update the package."
        )


class ApiError(DiffFitError):
    """Raised when the server rejected the request, with the fields of its problem document (RFC 9457)."""

    def __init__(self, problem: "Problem", retry_after: float | None = None) -> None:
        super().__init__(problem.detail)
        self.problem = problem
        self.retry_after = retry_after
        """Seconds to wait before the next try, from the response's `Retry-After`; None without one."""
        self.title: str = problem.title
        self.status: int = problem.status
        self.code: str = problem.code
        self.errors: list[dict[str, Any]] = problem.errors or []
        self.request_id: str = problem.request_id

    statuses: ClassVar[frozenset[int]] = frozenset()
    """HTTP statuses for which this exception class is raised."""


class InvalidRequest(ApiError):
    statuses = frozenset({400, 413, 415, 422})


class Unauthenticated(ApiError):
    statuses = frozenset({401})


class Forbidden(ApiError):
    statuses = frozenset({403})


class NotFound(ApiError):
    statuses = frozenset({404})


class Conflict(ApiError):
    statuses = frozenset({409})


class NameTaken(Conflict):
    """Raised when the name is already in use."""


class NoActiveAdapter(Conflict):
    """Raised when the domain has no active adapter yet: fine-tune it first."""


class BaseMismatch(Conflict):
    """Raised when the adapter was trained on a base model other than the server's: fine-tune the domain again."""


class TooManyRequests(ApiError):
    statuses = frozenset({429})


class ServerError(ApiError):
    statuses = frozenset(range(500, 600))


_BY_CODE: dict[str, type[ApiError]] = {
    "name_taken": NameTaken,
    "no_active_adapter": NoActiveAdapter,
    "base_mismatch": BaseMismatch,
}
_BY_STATUS = (InvalidRequest, Unauthenticated, Forbidden, NotFound, Conflict, TooManyRequests, ServerError)


def error_of(response: "httpx.Response", retry_after: float | None) -> ApiError:
    """Returns the exception for an unsuccessful response, chosen by the problem document's `code`, else by its HTTP
    status."""
    problem = _problem(response)
    kinds = (kind for kind in _BY_STATUS if problem.status in kind.statuses)
    return _BY_CODE.get(problem.code, next(kinds, ApiError))(problem, retry_after)


def _problem(response: "httpx.Response") -> "Problem":
    """Returns the problem document (RFC 9457) in the response's body. If another program responded, such as a proxy,
    builds one from the HTTP status."""
    import httpx
    from pydantic import ValidationError

    from difffit.models import Problem

    try:
        return Problem.model_validate_json(response.content)
    except ValidationError:
        return Problem(
            type="about:blank",
            title=httpx.codes.get_reason_phrase(response.status_code) or "Unexpected response",
            status=response.status_code,
            detail=(
                f"{response.request.url} answered {response.status_code}, but not as a DiffFit server. "
                "Check the address."
            ),
            code="unexpected_answer",
            request_id=response.headers.get("X-Request-ID", ""),
        )
