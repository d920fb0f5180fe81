"""Limits on the number of values and fields in JSON bodies. Parsing and validating run on the event loop, where a body
with very many of them would block all other requests."""

import json
from typing import Any

from fastapi import Request

from api.errors import InvalidFields

MAX_FIELDS = 100
"""Maximum number of fields in a JSON object, several times more than any schema has. Without a limit, validation would
create an error for each of very many unknown fields."""
MAX_VALUES = 20_000
"""Maximum number of commas and colons in a body, which bounds the number of its values. The largest valid body lists
1,000 parts of an upload, with about 4,000 commas and colons."""


class JsonRequest(Request):
    """Request that rejects a JSON body with more than `MAX_VALUES` values, or more than `MAX_FIELDS` fields in an
    object."""

    async def json(self) -> Any:
        """Returns the parsed body. Raises JSONDecodeError, or InvalidFields for too many values or fields."""
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
