"""What can go wrong. `except DiffFitError` catches all of it.

DiffFitError
├── NotConfigured         no API key, or settings that cannot be used
├── InvalidInput          what cannot be sent: a folder without images, an empty id, a PNG without settings
├── ConnectionFailed      the server could not be reached, or did not answer in time
├── WaitTimeout           what was waited for has not ended yet
├── JobFailed             a data set was rejected; a fine-tune or a generation failed or was cancelled
├── BadDownload           what came is not what was announced
├── UnexpectedAnswer      a success that is not one of this API
└── ApiError              the server refused: `status`, `code`, `title`, `detail`, `errors`, `request_id`
    ├── InvalidRequest    400, 413, 415, 422
    ├── Unauthenticated   401
    ├── Forbidden         403
    ├── NotFound          404
    ├── Conflict          409
    │   ├── NameTaken, NoActiveAdapter, BaseMismatch
    ├── TooManyRequests   429, with `retry_after`
    └── ServerError       500 and above
"""

from typing import Any, ClassVar

import httpx
from pydantic import ValidationError

from difffit.models import Dataset, Finetune, Generation, Problem


class DiffFitError(Exception):
    """The root. `title` names the kind of trouble, `detail` says what happened and what to do."""

    title: str = "Error"

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail


class NotConfigured(DiffFitError):
    title = "Not configured"


class InvalidInput(DiffFitError, ValueError):
    title = "Cannot be used"


class ConnectionFailed(DiffFitError):
    title = "No connection"

    def __init__(self, url: str, reason: str) -> None:
        super().__init__(f"{url} does not answer ({reason}).")
        self.url = url


class WaitTimeout(DiffFitError, TimeoutError):
    title = "Not done yet"

    def __init__(self, id: str, status: str, seconds: float) -> None:
        super().__init__(f"After {seconds:g} s {id} is still {status}. It goes on; wait for it again.")


class JobFailed(DiffFitError):
    """`job` is the row as it ended; `code` is stable."""

    def __init__(self, kind: str, job: Dataset | Finetune | Generation) -> None:
        super().__init__(job.error.detail if job.error else f"{job.id} was {job.status}.")
        self.title = f"{kind} {job.status}"
        self.job = job
        self.code = job.error.code if job.error else job.status


class BadDownload(DiffFitError):
    title = "Damaged download"

    def __init__(self, name: str) -> None:
        super().__init__(f"The bytes of {name} do not have its digest. Download it again.")


class UnexpectedAnswer(DiffFitError):
    title = "Unexpected answer"

    def __init__(self, url: str, reason: str) -> None:
        super().__init__(f"{url} did not answer as a DiffFit server of this version does: {reason}")


class ApiError(DiffFitError):
    """A problem document (RFC 9457) of the API."""

    def __init__(self, problem: Problem, retry_after: float | None = None) -> None:
        super().__init__(problem.detail)
        self.problem = problem
        self.retry_after = retry_after
        """Seconds that the server asks to wait."""
        self.title: str = problem.title
        self.status: int = problem.status
        self.code: str = problem.code
        self.errors: list[dict[str, Any]] = problem.errors or []
        self.request_id: str = problem.request_id

    statuses: ClassVar[frozenset[int]] = frozenset()
    """What this class is raised for."""


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
    """The name is in use already."""


class NoActiveAdapter(Conflict):
    """The domain has nothing to draw with yet: fine-tune it first."""


class BaseMismatch(Conflict):
    """The adapter was made for another base than the server's: fine-tune the domain again."""


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


def error_of(response: httpx.Response, retry_after: float | None) -> ApiError:
    """The exception for an answer that is not a success."""
    problem = _problem(response)
    kinds = (kind for kind in _BY_STATUS if problem.status in kind.statuses)
    return _BY_CODE.get(problem.code, next(kinds, ApiError))(problem, retry_after)


def _problem(response: httpx.Response) -> Problem:
    """The answer's own, or one about an answer that is not the API's, such as a proxy's page."""
    try:
        return Problem.model_validate_json(response.content)
    except ValidationError:
        return Problem(
            type="about:blank",
            title=httpx.codes.get_reason_phrase(response.status_code) or "Unexpected answer",
            status=response.status_code,
            detail=f"{response.request.url} answered {response.status_code}, not as a DiffFit server does.",
            code="unexpected_answer",
            request_id=response.headers.get("X-Request-ID", ""),
        )
