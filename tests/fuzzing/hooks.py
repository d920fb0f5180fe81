"""Loaded by schemathesis: what its checks cannot know of this API."""

import schemathesis
from schemathesis import Case, HookContext, Response
from schemathesis.core.failures import Failure, ResponseTimeExceeded
from schemathesis.openapi.checks import RejectedPositiveData

from core.artifact.errors import InvalidRequest


@schemathesis.hook
def filter_failure(context: HookContext, failure: Failure, case: Case, response: Response) -> bool:
    """A request that fits its schema may be refused for what no schema can tell: a file that is no zip, a class that
    the adapter does not know, an Idempotency-Key that came with another body before. All these have codes of their own,
    and `invalid_request` is the schemas'. Whoever prefers to wait, waits."""
    if isinstance(failure, RejectedPositiveData):
        return bool(response.json().get("code") == InvalidRequest.code)
    if isinstance(failure, ResponseTimeExceeded):
        return "prefer" not in {name.lower() for name in case.headers or {}}
    return True
