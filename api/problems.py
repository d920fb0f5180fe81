"""Exception handlers that render every error as problem details (RFC 9457)."""

import json
from http import HTTPStatus
from typing import Any

import structlog
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from sqlalchemy.exc import DataError, IntegrityError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import compile_path

from api.errors import Conflict, InvalidFields, Refused, UnsupportedMediaType
from api.link_pages import page_of, wants_page
from core.artifact.errors import CoreError, InvalidRequest

logger = structlog.get_logger()

PROBLEM_TYPE = "https://difffit.dev/problems/"
PROBLEM_MEDIA_TYPE = "application/problem+json"
MAX_ERRORS = 20
"""Maximum number of errors listed in a response."""
_MAX_FIELD_CHARACTERS = 200


class ProblemResponse(JSONResponse):
    media_type = PROBLEM_MEDIA_TYPE

    def render(self, content: Any) -> bytes:
        """Returns the problem details as JSON. Replaces lone surrogates, which UTF-8 cannot encode but the quoted parts
        of a request may contain."""
        return json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode(errors="replace")


def add_error_handlers(app: FastAPI) -> None:
    app.add_exception_handler(CoreError, _core_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(IntegrityError, _integrity_error)
    app.add_exception_handler(DataError, _value_error)
    app.add_exception_handler(OverflowError, _value_error)
    app.add_exception_handler(ClientDisconnect, _disconnected)


def render(request: Request, error: CoreError) -> ProblemResponse:
    body: dict[str, Any] = {
        "type": PROBLEM_TYPE + error.code,
        "title": error.title,
        "status": error.status,
        "detail": error.detail,
        "code": error.code,
        "request_id": getattr(request.state, "request_id", ""),
    }
    if error.errors:
        body["errors"], body["error_count"] = error.errors[:MAX_ERRORS], len(error.errors)
    return ProblemResponse(body, error.status, _headers(error))


def _headers(error: CoreError) -> dict[str, str]:
    """Returns the response headers of an error: `WWW-Authenticate`, `Retry-After`, and, for an exceeded quota, those of
    the IETF draft "RateLimit header fields for HTTP"."""
    headers = dict(error.headers) if isinstance(error, Refused) else {}
    if error.status == HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = "Bearer"
    if error.retry_after is not None:
        headers["Retry-After"] = str(error.retry_after)
    if error.limit is not None:
        name, limit = error.limit
        headers |= {"RateLimit-Policy": f'"{name}";q={limit}', "RateLimit": f'"{name}";r=0;t={error.retry_after}'}
    return headers


async def _core_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, CoreError)
    if error.status >= 500:
        logger.warning("request failed", code=error.code, detail=error.detail)
    return page_of(error, _headers(error)) if wants_page(request) else render(request, error)


async def _validation_error(request: Request, error: Exception) -> ProblemResponse:
    assert isinstance(error, RequestValidationError)
    problems = error.errors()
    if any(problem["loc"] == ("body",) and problem["type"] != "missing" for problem in problems) and not _is_json(
        request
    ):
        return render(request, UnsupportedMediaType())
    fields = [
        {
            "field": ".".join(str(part) for part in problem["loc"])[:_MAX_FIELD_CHARACTERS],
            "code": problem["type"],
            "detail": problem["msg"].removeprefix("Value error, "),
        }
        for problem in problems
    ]
    return render(request, InvalidFields(fields))


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if isinstance(error.__cause__, CoreError):  # FastAPI wraps errors raised while it reads the body
        return await _core_error(request, error.__cause__)
    detail, headers = error.detail, dict(error.headers or {})
    if error.status_code in (HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED):
        detail = f"No route matches {request.method} {request.scope['path']}. See /docs."
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        headers["Allow"] = _allowed(request) or headers.get("Allow", "")
    return render(request, Refused(error.status_code, detail, headers))


async def _integrity_error(request: Request, error: Exception) -> ProblemResponse:
    logger.info("lost a race", exc_info=error)
    return render(request, Conflict())


async def _value_error(request: Request, error: Exception) -> ProblemResponse:
    """Responds to a value that the database cannot store. Logs a warning, since the request schema should have rejected
    the value."""
    logger.warning("a value that the database cannot store", exc_info=error)
    return render(
        request, InvalidRequest("request", "a value is out of range or contains characters that cannot be stored")
    )


async def _disconnected(request: Request, _: Exception) -> ProblemResponse:
    return render(request, InvalidRequest("body", "the connection ended before the whole body had arrived"))


def _allowed(request: Request) -> str:
    """Returns the HTTP methods of all routes that match the request's path, for the `Allow` header. The router reports
    only those of the first matching route."""
    methods: set[str] = set()
    for path, operations in request.app.openapi()["paths"].items():
        if compile_path(path)[0].match(request.scope["path"]):
            methods |= {method.upper() for method in operations}
    return ", ".join(sorted(methods))


def _is_json(request: Request) -> bool:
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    return media_type == "application/json" or media_type.endswith("+json")
