"""Route class of the API's routers. It authenticates before reading a body, limits concurrent uploads and supports the
Idempotency-Key header."""

import errno
import hashlib
import json
import logging
from collections.abc import Callable, Coroutine
from dataclasses import replace
from functools import wraps
from inspect import iscoroutinefunction
from typing import Any

from fastapi import Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.encoders import jsonable_encoder
from fastapi.params import Form
from fastapi.responses import JSONResponse, StreamingResponse
from fastapi.routing import APIRoute
from pydantic import BaseModel
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException

from api.auth import authenticate, may_write
from api.errors import UploadSpaceFull
from api.json_bodies import JsonRequest
from api.threads import pool_of, run_in
from core.artifact.errors import InvalidRequest
from core.service import idempotency
from core.service.db.session import Database
from core.service.errors import DatabaseUnavailable
from core.service.idempotency import Answer
from core.service.tenancy import Scope

logger = logging.getLogger(__name__)
HEADER = "Idempotency-Key"
REPLAYED = "Idempotent-Replayed"
LONGEST = 255
_CHUNK = 2**20
_SECRETS = {"key": "dfk_", "secret": "whsec_"}
"""Response fields with secrets, and how such secrets begin. A replay of the response has null instead."""
_FORM = {"max_files": 1, "max_fields": 8, "max_part_size": 2**16}
"""Limits of multipart forms. Only one file is allowed, since each file takes up to 1 MiB of memory before it is
written to disk."""
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
Handler = Callable[[Request], Coroutine[Any, Any, Response]]


class IdempotentRoute(APIRoute):
    """Route that stores the successful response to a POST with an Idempotency-Key for a day, and replays it for the
    same idempotency key and body. A request that failed without an effect frees the idempotency key for another try.

    The API key is checked before any of the body is read, so that strangers cannot upload.

    Only the handler runs in the thread pool. FastAPI validates the response on the event loop, which takes less time
    than another thread switch.
    """

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        handler = endpoint if iscoroutinefunction(endpoint) else _in_thread(endpoint)
        super().__init__(path, handler, **{**options, "form_limits": _FORM})

    def get_route_handler(self) -> Handler:
        handle = super().get_route_handler()
        takes_file = self.body_field is not None and isinstance(self.body_field.field_info, Form)

        async def answer(request: Request) -> Response:
            request = JsonRequest(request.scope, request.receive)
            if request.method != "POST" and self.body_field is None:
                return await handle(request)
            scope = await run_in_threadpool(authenticate, request)
            if takes_file:
                transfers = request.app.state.services.limits.transfers
                with transfers.take(may_write(scope).tenant, request.state.body_bytes):
                    return await _answer(request, scope, handle)
            return await _answer(request, scope, handle)

        async def answer_within_the_disk(request: Request) -> Response:
            try:
                return await answer(request)
            except (OSError, HTTPException) as error:
                cause = error if isinstance(error, OSError) else error.__cause__  # FastAPI wraps an OSError
                if isinstance(cause, OSError) and cause.errno in _FULL:
                    raise UploadSpaceFull(cause.strerror or "disk full") from error
                raise

        return answer_within_the_disk


def _in_thread(handler: Callable[..., Any]) -> Callable[..., Coroutine[Any, Any, Any]]:
    pool = pool_of(handler)

    @wraps(handler)
    async def handle(*args: Any, **named: Any) -> Any:
        return await run_in(pool, handler, *args, **named)

    return handle


async def _answer(request: Request, scope: Scope, handle: Handler) -> Response:
    key = request.headers.get(HEADER)
    if key is None or request.method != "POST":
        return await handle(request)
    if not 1 <= len(key) <= LONGEST or not key.isascii() or not key.isprintable():
        raise InvalidRequest(HEADER, f"must be 1 to {LONGEST} printable ASCII characters")
    return await _once(request, scope, key, handle)


async def _once(request: Request, scope: Scope, key: str, handle: Handler) -> Response:
    digest = await _digest(request)
    request.state.scope = replace(scope, idempotency_key=key)
    request.state.run = run = _Run(request.app.state.services.database, scope, key)
    try:
        first = await run_in_threadpool(run.begin, digest)
        if first is not None:
            return JSONResponse(first.body, first.status_code, {REPLAYED: "true"})
        try:
            response = await handle(request)  # commits the handler's transaction before it returns
            run.answer = _storable(response)
        finally:
            await run_in_threadpool(run.end)
        return response
    finally:
        await request.close()


class _Run:
    """Idempotency key, reserved in the database while its request runs."""

    def __init__(self, database: Database, scope: Scope, key: str) -> None:
        self.database, self.scope, self.key = database, scope, key
        self.answer: Answer | None = None

    def begin(self, digest: str) -> Answer | None:
        with self.database.session(self.scope) as session:
            return idempotency.begin(session, self.key, digest)

    def keep(self, answer: Answer) -> None:
        with self.database.session(self.scope) as session:
            idempotency.keep(session, self.key, answer)

    def end(self) -> None:
        """Stores the response for the idempotency key, or frees the idempotency key if the request failed. If the
        database does not respond, the client gets its response nevertheless."""
        try:
            with self.database.session(self.scope) as session:
                if self.answer is None:
                    idempotency.abandon(session, self.key)
                else:
                    idempotency.complete(session, self.key, self.answer)
        except DatabaseUnavailable:
            logger.warning("The response to a request with an idempotency key was not stored", exc_info=True)


async def keep(request: Request, response: BaseModel) -> None:
    """Stores the body of a request's response with status 202 while the request goes on, in case it never ends. Does
    nothing for a request without an idempotency key."""
    run: _Run | None = getattr(request.state, "run", None)
    if run is not None:
        run.answer = Answer(202, jsonable_encoder(response))
        await run_in_threadpool(run.keep, run.answer)


async def _digest(request: Request) -> str:
    """Returns the SHA-256 of the request's path, query and body. Of a multipart form, it hashes the fields and files,
    since the encoded body has a random boundary."""
    digest = hashlib.sha256(f"{request.scope['path']}?".encode() + request.scope["query_string"] + b"\n")
    if request.headers.get("content-type", "").startswith("multipart/form-data"):
        await _add_form(digest, await request.form(**_FORM))
    else:
        digest.update(await request.body())
    return digest.hexdigest()


async def _add_form(digest: "hashlib._Hash", form: FormData) -> None:
    for name, value in form.multi_items():
        digest.update(f"\n{name}\n".encode(errors="replace"))
        if isinstance(value, UploadFile):
            while chunk := await value.read(_CHUNK):
                digest.update(chunk)
            await value.seek(0)
        else:
            digest.update(value.encode(errors="replace"))


def _storable(response: Response) -> Answer | None:
    """Returns a successful response with its secrets removed, as it is stored for replays. Returns None for other
    responses, which are not replayed."""
    if response.status_code >= 300 or isinstance(response, StreamingResponse):
        return None
    body = json.loads(bytes(response.body)) if response.body else None
    for name, prefix in _SECRETS.items():
        if isinstance(body, dict) and str(body.get(name) or "").startswith(prefix):
            body[name] = None
    return Answer(response.status_code, body)
