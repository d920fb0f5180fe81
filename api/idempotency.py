"""Idempotency-Key on every POST, in one place: the route class that all routers use."""

import hashlib
import json
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from starlette.datastructures import FormData, UploadFile

from core import idempotency
from core.errors import InvalidRequest
from core.idempotency import Answer

HEADER = "Idempotency-Key"
_CHUNK = 2**20


class IdempotentRoute(APIRoute):
    """Successful answers are kept for a day and given again for the same key and body; a failure frees the key."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def idempotent(request: Request) -> Response:
            key = request.headers.get(HEADER)
            if request.method != "POST" or key is None:
                return await handle(request)
            if not 1 <= len(key) <= 255 or not key.isascii() or not key.isprintable():
                raise InvalidRequest(HEADER, "must be 1 to 255 printable ASCII characters")
            return await _once(request, key, handle)

        return idempotent


async def _once(
    request: Request, key: str, handle: Callable[[Request], Coroutine[Any, Any, Response]]
) -> Response:
    database = request.app.state.services.database
    who = hashlib.sha256(request.headers.get("authorization", "").encode()).hexdigest()
    digest = await _digest(request)

    def begin() -> Answer | None:
        with database.session() as session:
            return idempotency.begin(session, who, key, digest)

    def end(answer: Answer | None) -> None:
        with database.session() as session:
            if answer is None:
                idempotency.abandon(session, who, key)
            else:
                idempotency.complete(session, who, key, answer)

    first = await run_in_threadpool(begin)
    if first is not None:
        return JSONResponse(first.body, first.status_code, {"Idempotent-Replayed": "true"})
    answer: Answer | None = None
    try:
        response = await handle(request)
        answer = _storable(response)
        return response
    finally:
        await run_in_threadpool(end, answer)


async def _digest(request: Request) -> str:
    """Of method, path and body; an upload counts by its bytes, not by how they were wrapped."""
    digest = hashlib.sha256(f"{request.method} {request.url.path}?{request.url.query}\n".encode())
    if request.headers.get("content-type", "").startswith("multipart/form-data"):
        await _add_form(digest, await request.form())
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
    """A successful answer, without a secret that is shown once."""
    if response.status_code >= 300:
        return None
    body = json.loads(bytes(response.body)) if response.body else None
    if isinstance(body, dict) and str(body.get("key") or "").startswith("dfk_"):
        body["key"] = None
    return Answer(response.status_code, body)
