"""Every error as RFC 9457 problem details, in one place."""

from http import HTTPStatus
from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from core.errors import CoreError

logger = structlog.get_logger()

PROBLEM_TYPE = "https://difffit.dev/problems/"


def add_error_handlers(app: FastAPI) -> None:
    app.add_exception_handler(CoreError, _core_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(Exception, _unexpected)


def problem(
    request: Request,
    status: int,
    code: str,
    title: str,
    detail: str,
    errors: list[dict[str, Any]] | None = None,
    headers: dict[str, str] | None = None,
) -> JSONResponse:
    body: dict[str, Any] = {
        "type": PROBLEM_TYPE + code,
        "title": title,
        "status": status,
        "detail": detail,
        "code": code,
        "request_id": getattr(request.state, "request_id", ""),
    }
    if errors:
        body["errors"] = errors
    return JSONResponse(body, status, headers, media_type="application/problem+json")


async def _core_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, CoreError)
    if error.status >= 500:
        logger.warning("request failed", code=error.code, detail=error.detail)
    return problem(request, error.status, error.code, error.title, error.detail, error.errors, error.headers)


async def _validation_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    errors = [
        {"field": ".".join(str(part) for part in one["loc"]), "code": one["type"], "detail": one["msg"]}
        for one in error.errors()
    ]
    detail = f"{errors[0]['field']}: {errors[0]['detail']}" if errors else "The request is not valid."
    detail = detail.encode(errors="replace").decode()
    return problem(request, 422, "invalid_request", "Invalid request", detail, errors)


async def _http_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    title = HTTPStatus(error.status_code).phrase
    code = title.lower().replace(" ", "_")
    return problem(
        request, error.status_code, code, title, str(error.detail), headers=dict(error.headers or {}) or None
    )


async def _unexpected(request: Request, error: Exception) -> JSONResponse:
    logger.error("unexpected error", exc_info=error)
    detail = "Something went wrong on our side. Give the request_id when you report it."
    return problem(request, 500, "internal_error", "Internal error", detail)
