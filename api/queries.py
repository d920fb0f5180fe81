"""Check of query parameters: a route accepts only those in its OpenAPI document, each at most once."""

from collections import Counter

from fastapi import Request
from fastapi.dependencies.utils import get_flat_params
from fastapi.params import ParamTypes
from fastapi.routing import APIRoute

from api.errors import InvalidFields


async def check_query(request: Request) -> None:
    """Raises InvalidFields for unknown and repeated query parameters, which FastAPI would ignore."""
    route = request.scope.get("route")
    if not request.scope["query_string"] or not isinstance(route, APIRoute) or not route.include_in_schema:
        return
    known = _names(route)
    counts = Counter(name for name, _ in request.query_params.multi_items())
    takes = f"takes {', '.join(known)}" if known else "takes no query parameters"
    errors = [
        *(_error(name, "extra_forbidden", f"Unknown; this route {takes}.") for name in counts if name not in known),
        *(_error(name, "repeated", "Send it once.") for name in known if counts[name] > 1),
    ]
    if errors:
        raise InvalidFields(errors)


def _names(route: APIRoute) -> list[str]:
    fields = get_flat_params(route.dependant)
    return sorted(field.alias for field in fields if getattr(field.field_info, "in_", None) is ParamTypes.query)


def _error(name: str, code: str, detail: str) -> dict[str, str]:
    return {"field": f"query.{name}"[:200], "code": code, "detail": detail}
