"""Hooks for schemathesis: exceptions to its checks for this API."""

import schemathesis
from schemathesis import Case, HookContext, Response
from schemathesis.core.failures import Failure, ResponseTimeExceeded
from schemathesis.openapi.checks import EnsureResourceAvailability, RejectedPositiveData

from api.idempotency import REPLAYED
from core.artifact.errors import InvalidRequest

_replayed: set[str] = set()
"""Ids in replayed responses. Their resources may have been deleted since the first response."""


@schemathesis.hook
def after_call(context: HookContext, case: Case, response: Response) -> None:
    if REPLAYED.lower() in response.headers:
        body = response.json()
        _replayed.update(row["id"] for row in (body, *body.get("data", ())) if "id" in row)


@schemathesis.hook
def filter_failure(context: HookContext, failure: Failure, case: Case, response: Response) -> bool:
    """Returns whether a failure counts. A request that matches its schema may be rejected for other reasons: a file
    that is no zip, a class that the adapter lacks, an Idempotency-Key of another body. These have codes other than
    `invalid_request`. A request with `Prefer: wait` may take long."""
    if isinstance(failure, RejectedPositiveData):
        return bool(response.json().get("code") == InvalidRequest.code)
    if isinstance(failure, ResponseTimeExceeded):
        return "prefer" not in {name.lower() for name in case.headers or {}}
    if isinstance(failure, EnsureResourceAvailability):
        return _replayed.isdisjoint((case.path_parameters or {}).values())
    return True
