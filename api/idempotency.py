"""Route class of all routers: authenticates before reading bodies, limits uploads, supports Idempotency-Key."""

import errno
import hashlib
import json
from collections.abc import Callable, Coroutine
from functools import wraps
from inspect import iscoroutinefunction
from typing import Any

from fastapi import Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.params import Form
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException

from api.auth import authenticate, may_write
from api.errors import UploadSpaceFull
from api.json_bodies import JsonRequest
from api.threads import pool_of, run_in
from core.artifact.errors import InvalidRequest
from core.service import idempotency
from core.service.db.session import Database
from core.service.idempotency import Answer
from core.service.tenancy import Scope

HEADER = "Idempotency-Key"
REPLAYED = "Idempotent-Replayed"
LONGEST = 255
_CHUNK = 2**20
_SECRETS = {"key": "dfk_", "secret": "whsec_"}
"""Secret fields, which only the first response contains."""
_FORM = {"max_files": 1, "max_fields": 8, "max_part_size": 2**16}
"""Form limits: one file, since each file holds up to 1 MiB in memory before it is spooled to disk."""
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
Handler = Callable[[Request], Coroutine[Any, Any, Response]]


class IdempotentRoute(APIRoute):
    """Stores successful responses for a day and replays them for the same key and body. A failure frees the key.

    Authenticates before any of the body is read, so that strangers cannot upload.

    Only the handler runs in the thread pool. Response validation stays on the event loop, which is faster than
    another thread switch.
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
                cause = error if isinstance(error, OSError) else error.__cause__  # FastAPI reports it as a bad request
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
    run = _Run(request.app.state.services.database, scope, key)
    try:
        first = await run_in_threadpool(run.begin, digest)
        if first is not None:
            return JSONResponse(first.body, first.status_code, {REPLAYED: "true"})
        try:
            response = await handle(request)  # its transaction is committed when it returns
            run.answer = _storable(response)
        finally:
            await run_in_threadpool(run.end)
        return response
    finally:
        await request.close()


class _Run:
    """Holds an idempotency key while its request runs."""

    def __init__(self, database: Database, scope: Scope, key: str) -> None:
        self.database, self.scope, self.key = database, scope, key
        self.answer: Answer | None = None

    def begin(self, digest: str) -> Answer | None:
        with self.database.session(self.scope) as session:
            return idempotency.begin(session, self.key, digest)

    def end(self) -> None:
        """Stores the response, or frees the key when there is none."""
        with self.database.session(self.scope) as session:
            if self.answer is None:
                idempotency.abandon(session, self.key)
            else:
                idempotency.complete(session, self.key, self.answer)


async def _digest(request: Request) -> str:
    """Returns the digest of path, query and body. A form is digested by fields and files, not by its encoding."""
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
    """Returns a successful response without secrets, or None for other responses."""
    if response.status_code >= 300:
        return None
    body = json.loads(bytes(response.body)) if response.body else None
    for name, prefix in _SECRETS.items():
        if isinstance(body, dict) and str(body.get(name) or "").startswith(prefix):
            body[name] = None
    return Answer(response.status_code, body)
