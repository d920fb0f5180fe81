"""JSON bodies, bounded before they are read and validated, which both happens on the event loop."""

import json
from typing import Any

from fastapi import Request

from api.errors import InvalidFields

MAX_FIELDS = 100
"""Fields of one object: several times what any schema has. Validation makes an error for each unknown one."""
MAX_VALUES = 20_000
"""Commas and colons of a body, which no value is without: five times as many as the largest list of parts has."""


class JsonRequest(Request):
    """A request whose JSON has at most `MAX_VALUES` values, and `MAX_FIELDS` in one object."""

    async def json(self) -> Any:
        """Raises JSONDecodeError, and InvalidFields for a body that is larger than any valid one."""
        if not hasattr(self, "_json"):
            body = await self.body()
            if body.count(b",") + body.count(b":") > MAX_VALUES:
                raise _refused("too_many_values", "The body has too many values. Send only known fields.")
            self._json = json.loads(body, object_pairs_hook=_bounded)
        return self._json


def _bounded(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(pairs) > MAX_FIELDS:
        detail = f"An object has {len(pairs):,} fields; at most {MAX_FIELDS} are allowed. Send only known fields."
        raise _refused("too_many_fields", detail)
    return dict(pairs)


def _refused(code: str, detail: str) -> InvalidFields:
    return InvalidFields([{"field": "body", "code": code, "detail": detail}])
