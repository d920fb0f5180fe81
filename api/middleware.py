"""Middleware that gives every request an id, a log line and metrics, and every unexpected error a response."""

import re
import time
import uuid

import structlog
from fastapi import Request
from prometheus_client import Counter, Histogram
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.errors import UnexpectedError
from api.problems import render
from core.artifact.errors import NotFound

logger = structlog.get_logger()

REQUESTS = Counter("difffit_http_requests_total", "Requests", ["method", "route", "status"])
SECONDS = Histogram("difffit_http_request_seconds", "Time to the first byte of the response", ["method", "route"])
_ADDRESS_CHARACTERS = 64
_METHODS = {"GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"}


class RequestMiddleware:
    """Adds a request id, logs and counts every request, and responds to unexpected errors. It is a plain ASGI
    middleware, so that event streams are not buffered."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request_id = _request_id(scope)
        scope.setdefault("state", {})["request_id"] = request_id
        started, status = time.perf_counter(), 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["X-Request-ID"] = request_id
                for name, value in scope["state"].get("limit_headers", {}).items():
                    headers.append(name, value)  # `append`, since an exceeded quota has set the same headers
                _observe(scope, status, time.perf_counter() - started)
            await send(message)

        with structlog.contextvars.bound_contextvars(request_id=request_id, address=_address(scope)):
            try:
                await self._answer(scope, receive, send_with_id)
            except Exception as error:
                if status:
                    raise  # the response has started: the server can only close the connection
                logger.exception("unexpected error", exc_info=error)
                await render(Request(scope), UnexpectedError())(scope, receive, send_with_id)
            finally:
                _log(scope, status, time.perf_counter() - started)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        if "\0" in scope["path"]:  # no id contains NUL, and PostgreSQL rejects strings that do
            await render(Request(scope), NotFound("path", scope["path"].replace("\0", "\\0")))(scope, receive, send)
        else:
            await self.app(scope, receive, send)


def _observe(scope: Scope, status: int, seconds: float) -> None:
    method, route = scope["method"] if scope["method"] in _METHODS else "other", _route(scope)
    REQUESTS.labels(method, route, str(status)).inc()
    SECONDS.labels(method, route).observe(seconds)


def _log(scope: Scope, status: int, seconds: float) -> None:
    caller = scope["state"].get("scope")
    logger.info(
        "request",
        method=scope["method"],
        path=scope["path"],
        route=_route(scope),
        status=status,
        seconds=round(seconds, 4),
        tenant_id=caller.tenant_id if caller else None,
        key_id=caller.key_id if caller else None,
    )


def _route(scope: Scope) -> str:
    """Returns the route's path template, such as `/v1/domains/{id}`, so that ids do not become labels of metrics."""
    return getattr(scope.get("route"), "path", "unknown")


def _address(scope: Scope) -> str | None:
    """Returns the client's address, which uvicorn takes from the headers of a trusted proxy if there is one."""
    client = scope.get("client")
    return client[0][:_ADDRESS_CHARACTERS] if client else None


def _request_id(scope: Scope) -> str:
    """Returns the `X-Request-ID` that the client sent, if it is safe in logs and headers, or else a new request id."""
    sent = Headers(scope=scope).get("x-request-id", "")
    return sent if re.fullmatch(r"[\w.-]{1,100}", sent, re.ASCII) else uuid.uuid4().hex
