"""Client of the REST contract for the pages: responses become the contract's models, errors become ProblemError."""

from collections.abc import AsyncIterator, Callable
from typing import Any, TypeVar

import httpx
from httpx_sse import EventSource
from pydantic import BaseModel, ValidationError

from api.schemas.common import Listing, Problem
from api.schemas.tenants import OwnKeyOut

Model = TypeVar("Model", bound=BaseModel)
_ALL_AT_ONCE = 100


class ProblemError(Exception):
    """The service rejected a request; `problem` explains why."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.title)
        self.problem = problem


class Contract:
    """Sends requests with one API key. Looks the key up each time, since the session may have ended."""

    def __init__(self, http: httpx.AsyncClient, key: Callable[[], str | None]) -> None:
        self.http, self.key = http, key

    async def get(self, path: str, model: type[Model], **params: Any) -> Model:
        return model.model_validate_json((await self._send("GET", path, params=_given(params))).content)

    async def sign_in(self) -> OwnKeyOut:
        """Returns the key's identity, and records the sign-in in the audit log."""
        response = await self._send("GET", "/v1/key", extensions={"signs_in": True})
        return OwnKeyOut.model_validate_json(response.content)

    async def list(self, path: str, item: type[Model], **params: Any) -> list[Model]:
        """Returns the newest items of a list, at most 100."""
        return (await self.page(path, item, limit=_ALL_AT_ONCE, **params)).data

    async def page(self, path: str, item: type[Model], **params: Any) -> Listing[Model]:
        return await self.get(path, Listing[item], **params)  # type: ignore[valid-type]  # a model created at run time

    async def post(self, path: str, model: type[Model], body: Any = None, **options: Any) -> Model:
        sent = {"json": body} if body is not None else {}
        return model.model_validate_json((await self._send("POST", path, **sent, **options)).content)

    async def patch(self, path: str, body: Any) -> None:
        await self._send("PATCH", path, json=body)

    async def delete(self, path: str) -> None:
        await self._send("DELETE", path)

    async def events(self, path: str) -> AsyncIterator[tuple[str, dict[str, Any]]]:
        """Yields (event, data) from a stream until it ends."""
        async with self.http.stream("GET", path, headers=self._headers(), timeout=None) as response:
            if response.is_error:
                await response.aread()
                raise _problem(response)
            if response.status_code == httpx.codes.NO_CONTENT:
                return
            async for sent in EventSource(response).aiter_sse():
                if sent.data:  # a heartbeat has none
                    yield sent.event, sent.json()

    async def _send(self, method: str, path: str, **options: Any) -> httpx.Response:
        headers = {**self._headers(), **options.pop("headers", {})}
        response = await self.http.request(method, path, headers=headers, **options)
        if response.is_error:
            raise _problem(response)
        return response

    def _headers(self) -> dict[str, str]:
        key = self.key()
        return {} if key is None else {"Authorization": f"Bearer {key}"}


def _given(params: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in params.items() if value not in (None, "")}


def _problem(response: httpx.Response) -> ProblemError:
    try:
        return ProblemError(Problem.model_validate_json(response.content))
    except ValidationError:
        title = f"The service answered {response.status_code}"
        return ProblemError(
            Problem(
                type="about:blank",
                title=title,
                status=response.status_code,
                detail="Try again in a moment.",
                code="unknown",
                request_id=response.headers.get("X-Request-ID", ""),
                errors=None,
            )
        )
