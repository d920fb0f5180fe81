"""OpenAPI document and its page /docs. Adds to FastAPI's document what all routes share: errors, headers, the API
key."""

import base64
import hashlib
import json
import re
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.openapi.utils import get_openapi
from fastapi.responses import RedirectResponse
from fastapi.staticfiles import StaticFiles

from api.errors import Conflict, PayloadTooLarge, RateLimited, UnsupportedMediaType
from api.headers import page_policy
from api.idempotency import HEADER, LONGEST, REPLAYED
from api.problems import PROBLEM_MEDIA_TYPE
from api.schemas.common import Problem
from core.artifact.errors import CoreError, InvalidRequest
from core.service.errors import (
    DatabaseUnavailable,
    Forbidden,
    IdempotencyConflict,
    IdempotencyMismatch,
    InvalidCursor,
    ResponseLost,
    Unauthenticated,
)
from core.service.extras import is_installed

DESCRIPTION = """
Fine-tune and serve image domains on one resident diffusion transformer.

1. Create a **domain**: an image style on which the base is fine-tuned.
2. Upload a **data set** to it, a zip with one folder of images per class, and wait until it is `ready`.
3. Start a **fine-tune** and follow its events. It ends with an **adapter**, the domain's next version.
4. Create a **generation**: images of a class, made with the domain's active version.

Send an API key as `Authorization: Bearer <key>`. Errors are problem details (RFC 9457) with a stable `code`. Every POST
takes an `Idempotency-Key`. Lists are newest first: to get the next page, pass `next_cursor` as `cursor`. Unknown query
parameters and fields are rejected with 422. Times are RFC 3339 in UTC. Too many requests get a 429 with `Retry-After`.
"""

TAGS = [
    {"name": "domains", "description": "Image styles on which the base is fine-tuned."},
    {"name": "datasets", "description": "Zips of training images, one folder per class."},
    {"name": "finetunes", "description": "Train adapters from data sets, with live events."},
    {"name": "adapters", "description": "The versions of a domain: list, upload, download, promote."},
    {"name": "generations", "description": "Requests for images, made with a domain's adapter."},
    {"name": "images", "description": "Generated images: find, mark, label, delete, download."},
    {
        "name": "webhooks",
        "description": "Events sent to a URL of yours, signed according to https://www.standardwebhooks.com, so that "
        "any of its libraries verifies them. The body is `{type, timestamp, data}`; `data` contains the id of the "
        "object, "
        "to be read from this API. Events may arrive twice (with the same `webhook-id`) or out of order. Respond with "
        "2xx within 10 s; otherwise the event is sent again, 10 times within about a day, with growing pauses. A "
        "webhook that fails for that long, or responds with 410, is disabled.",
    },
    {"name": "base", "description": "The base model, with the defaults and limits of settings."},
    {"name": "usage", "description": "Your usage, and the key of the request."},
    {"name": "deletions", "description": "Receipts of deletions."},
    {"name": "admin", "description": "Tenants, keys, stored adapters, workers. Needs an administrator's key."},
    {
        "name": "health",
        "description": "For operators. Probes need no key, metrics need an administrator's key.",
    },
]

_HEADERS = {
    "RequestId": ("X-Request-ID", "Id of this request, as sent by the client or created by the service."),
    "RateLimit": ("RateLimit", 'Remaining quota: `"requests_per_minute";r=599;t=1`, more in `t` seconds.'),
    "RateLimitPolicy": ("RateLimit-Policy", 'The limits: `"requests_per_minute";q=600;w=60`. Empty if there are none.'),
    "RetryAfter": ("Retry-After", "Seconds to wait before the next try."),
    "Replayed": (REPLAYED, "`true` when this response is a replay of the first one."),
}
"""HTTP header and description, by the name of the header's component in the OpenAPI document."""
_OPEN = {"/livez", "/readyz"}
Responses = dict[int | str, dict[str, Any]]
_SCHEMA = {"$ref": "#/components/schemas/Problem"}


def problems(*errors: type[CoreError]) -> Responses:
    """Returns the argument `responses` of a route that can raise these errors: one entry for each HTTP status."""
    responses: Responses = {}
    for error in errors:
        line = f"`{error.code}`: {error.title}."
        if error.status in responses:
            responses[error.status]["description"] += f"\n\n{line}"
        else:
            content = {PROBLEM_MEDIA_TYPE: {"schema": _SCHEMA}}
            responses[error.status] = {"description": line, "content": content}
    return responses


def tagged(*errors: type[CoreError]) -> Responses:
    """Returns the argument `responses` of a route that can raise these errors and whose response has an ETag. Clients
    send the ETag back as `If-Match`, for optimistic concurrency."""
    return {
        200: {"headers": {"ETag": _header("Tag of this state. Send it as `If-Match` with a change.")}},
        **problems(*errors),
    }


def deleted(*errors: type[CoreError]) -> Responses:
    """Returns the argument `responses` of a route that can raise these errors, deletes an object, and points to the
    receipt of the deletion in the header `Location`."""
    receipt = {"Location": _header("URL of the deletion's receipt.")}
    return {
        204: {"description": "Deleted. Its files are removed in the background.", "headers": receipt},
        **problems(*errors),
    }


def add_openapi(app: FastAPI) -> None:
    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _document(app)
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]  # FastAPI's documentation recommends this assignment


def add_documentation(app: FastAPI) -> None:
    """Adds the page /docs, which shows the OpenAPI document with Swagger UI. The page loads Swagger's files from the
    optional dependency `docs`, not from other hosts. If it is not installed, /docs redirects to the document."""
    has_page = is_installed("docs")
    if has_page:
        app.mount("/docs/assets", StaticFiles(packages=[("fastapi_swagger", "resources")]))

    @app.get("/docs", include_in_schema=False)
    def page(request: Request) -> Response:
        root = request.scope.get("root_path", "")
        if not has_page:
            return RedirectResponse(f"{root}{app.openapi_url}")
        html = get_swagger_ui_html(
            openapi_url=f"{root}{app.openapi_url}",
            title=app.title,
            swagger_js_url=f"{root}/docs/assets/swagger-ui-bundle.js",
            swagger_css_url=f"{root}/docs/assets/swagger-ui.css",
            swagger_favicon_url=f"{root}/docs/assets/favicon-32x32.png",
        )
        html.headers["Content-Security-Policy"] = page_policy(_digests(bytes(html.body).decode()))
        return html


def _digests(page: str) -> str:
    """Returns the SHA-256 digests of a page's inline scripts, in the form in which a Content-Security-Policy allows
    these scripts."""
    scripts = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    digests = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    return " ".join(f"'sha256-{digest}'" for digest in digests)


def _document(app: FastAPI) -> dict[str, Any]:
    document = get_openapi(title=app.title, version=app.version, description=DESCRIPTION, tags=TAGS, routes=app.routes)
    components = document["components"]
    for unused in ("HTTPValidationError", "ValidationError"):
        components["schemas"].pop(unused)
    components["schemas"]["Problem"] = Problem.model_json_schema()
    components["securitySchemes"] = {"ApiKey": _api_key()}
    components["parameters"] = {"IdempotencyKey": _idempotency_key()}
    components["headers"] = {name: _header(description) for name, (_, description) in _HEADERS.items()}
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            _complete(operation, method, is_open=path in _OPEN)
    return _named(document)


def _named(document: dict[str, Any]) -> dict[str, Any]:
    """Renames the schemas of lists, for example `Listing_DomainOut_` to `DomainList`, since code generators name types
    after them."""
    renamed: dict[str, Any] = json.loads(
        re.sub(r"Listing[_\[](\w+?)(?:Out)?[_\]]", r"\1List", json.dumps(document, ensure_ascii=False))
    )
    return renamed


def _complete(operation: dict[str, Any], method: str, *, is_open: bool) -> None:
    responses = operation["responses"]
    if "application/json" in responses.get("422", {}).get("content", {}):
        del responses["422"]  # FastAPI's own error format, which this API never sends
    _add(responses, InvalidRequest)  # every route raises it, at least for unknown query parameters
    if any(parameter.get("name") == "cursor" for parameter in operation.get("parameters", [])):
        _add(responses, InvalidCursor)
    if "requestBody" in operation:
        _add(responses, PayloadTooLarge)
        _add_status(responses, "400", "`bad_request`: Body not readable.")
        _add_status(responses, "408", "`request_timeout`: Body sent too slowly.")
        if "application/json" in operation["requestBody"]["content"]:
            _add(responses, UnsupportedMediaType)
    if not is_open:
        operation.setdefault("security", [{"ApiKey": []}])
        _add(responses, Unauthenticated, Forbidden, RateLimited, DatabaseUnavailable)
    if method in ("post", "patch", "delete"):
        _add(responses, Conflict)
    if method == "post":
        operation.setdefault("parameters", []).append({"$ref": "#/components/parameters/IdempotencyKey"})
        _add(responses, IdempotencyConflict, IdempotencyMismatch, ResponseLost)
    for status, response in responses.items():
        response["headers"] = {**response.get("headers", {}), **_headers(method, status, is_open=is_open)}


def _headers(method: str, status: str, *, is_open: bool) -> dict[str, Any]:
    names = ["RequestId"] if is_open else ["RequestId", "RateLimit", "RateLimitPolicy"]
    if not is_open and status in ("429", "503"):
        names.append("RetryAfter")
    if method == "post" and status.startswith("2"):
        names.append("Replayed")
    return {_HEADERS[name][0]: {"$ref": f"#/components/headers/{name}"} for name in names}


def _add(responses: dict[str, Any], *errors: type[CoreError]) -> None:
    for status, response in problems(*errors).items():
        _add_status(responses, str(status), response["description"])


def _add_status(responses: dict[str, Any], status: str, description: str) -> None:
    if status in responses:
        responses[status]["description"] += f"\n\n{description}"
    else:
        responses[status] = {"description": description, "content": {PROBLEM_MEDIA_TYPE: {"schema": _SCHEMA}}}


def _api_key() -> dict[str, Any]:
    return {
        "type": "http",
        "scheme": "bearer",
        "bearerFormat": "dfk_…",
        "description": "An API key of a tenant (scopes `read` and `write`) or of an administrator (scope `admin`).",
    }


def _idempotency_key() -> dict[str, Any]:
    return {
        "name": HEADER,
        "in": "header",
        "required": False,
        "description": "Any value, such as a UUID. Within a day, the same key and body return the first response. "
        "Another body is rejected with 422; 409 means that the first request still runs, or in rare cases that it "
        "was carried out but its response is lost.",
        "schema": {"type": "string", "minLength": 1, "maxLength": LONGEST, "pattern": "^[ -~]+$"},
    }


def _header(description: str) -> dict[str, Any]:
    return {"description": description, "schema": {"type": "string"}}
