"""Hooks for schemathesis: exceptions to its checks for this API."""

import schemathesis
from schemathesis import Case, HookContext, Response
from schemathesis.core.failures import Failure, ResponseTimeExceeded
from schemathesis.openapi.checks import RejectedPositiveData

from core.artifact.errors import InvalidRequest


@schemathesis.hook
def filter_failure(context: HookContext, failure: Failure, case: Case, response: Response) -> bool:
    """Returns whether a failure counts. A request that matches its schema may be rejected for other reasons: a file
    that is no zip, a class that the adapter lacks, an Idempotency-Key of another body. These have codes other than
    `invalid_request`. A request with `Prefer: wait` may take long."""
    if isinstance(failure, RejectedPositiveData):
        return bool(response.json().get("code") == InvalidRequest.code)
    if isinstance(failure, ResponseTimeExceeded):
        return "prefer" not in {name.lower() for name in case.headers or {}}
    return True
