"""Limits of JSON bodies, checked before parsing and validation, which both block the event loop."""

import json
from typing import Any

from fastapi import Request

from api.errors import InvalidFields

MAX_FIELDS = 100
"""Maximum fields per object, several times more than any schema has. Validation creates an error per unknown field."""
MAX_VALUES = 20_000
"""Maximum commas and colons in a body, as a bound on its values: five times as many as the longest list of parts."""


class JsonRequest(Request):
    """A request whose JSON has at most `MAX_VALUES` values and `MAX_FIELDS` fields per object."""

    async def json(self) -> Any:
        """Parses the body. Raises JSONDecodeError, or InvalidFields for a body with too many values."""
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
