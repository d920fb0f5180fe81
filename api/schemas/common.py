"""Base classes, field types and helpers that the request and response models share."""

import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Generic, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, GetJsonSchemaHandler, JsonValue
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from core.service.db.paging import Page


def _storable(text: str) -> str:
    """Returns the text. Raises ValueError if it has NUL characters or lone surrogates, which the databases cannot
    store."""
    if "\0" in text:
        raise ValueError("must not contain NUL characters")
    text.encode()  # raises for a lone surrogate
    return text


def _composed(text: str) -> str:
    """Returns the text in composed form (NFC), in which data sets and adapters have the names of their classes."""
    return unicodedata.normalize("NFC", text)


def _one_line(text: str) -> str:
    """Returns the text in composed form (NFC), in which names that look alike are equal. Raises ValueError for control
    characters and blank text."""
    if any(unicodedata.category(character) == "Cc" for character in text):
        raise ValueError("must not contain control characters")
    if not text.strip():
        raise ValueError("must not be blank")
    return _composed(_storable(text)).strip()


@dataclass(frozen=True)
class _Documented:
    """Annotation that adds a regular expression to a type's schema in the OpenAPI document. It does not check values: a
    separate validator does, with an error message that explains what is wrong."""

    pattern: str

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return handler(schema) | {"pattern": self.pattern}


def _whole(value: object) -> object:
    return int(value) if isinstance(value, float) and value.is_integer() else value


WHOLE = BeforeValidator(_whole)
"""Validator that accepts 3.0 as an integer, as JSON Schema does. Put it after a type's limits, or the OpenAPI document
will lack the limits."""
Integer = Annotated[int, WHOLE]
_SHOWN = r"[^\u0000-\u001f\u007f-\u009f]"
_STORABLE = (AfterValidator(_storable), _Documented(r"^[^\u0000]*$"))
_ONE_LINE = (AfterValidator(_one_line), _Documented(rf"^{_SHOWN}*[^\s\u0000-\u001f\u007f-\u009f]{_SHOWN}*$"))
Name = Annotated[str, Field(min_length=1, max_length=200, examples=["Product icons"]), *_ONE_LINE]
Description = Annotated[str, Field(max_length=2000, examples=["Flat icons with one accent colour"]), *_STORABLE]
KeptDays = Annotated[int, Field(ge=1, le=36_500, examples=[90]), WHOLE]
KEPT_DAYS = (
    "Days after which images are deleted, counted from the end of their generation; null for none of its own. A "
    "domain's days come before its tenant's, and the service's own limit, if it has any, applies in any case."
)
KEPT_FAVOURITES = "Whether favourites stay when these days have passed."
Label = Annotated[str, Field(min_length=1, max_length=200, examples=["cover, second try"]), *_ONE_LINE]
Identifier = Annotated[str, Field(max_length=100), *_STORABLE]
KeyPrefix = Annotated[str, Field(max_length=1000, examples=["drawings/"]), *_STORABLE]
ClassName = Annotated[str, Field(max_length=400, examples=["fruit"]), *_STORABLE, AfterValidator(_composed)]
"""Name of a class, which is converted to composed form (NFC). A data set's class names have at most 100 characters in
this form. The limit is higher here, since a request may have the name in decomposed form, which has more characters."""
NewClassName = Annotated[str, Field(min_length=1, max_length=100, examples=["apple"]), *_ONE_LINE]
Time = Annotated[datetime, Field(examples=["2026-11-23T13:58:16.885Z"])]
TENANT_NAME = "Null if the tenant was deleted."
SignedUrl = Callable[[str], str]
"""Function that returns the signed URL of a path."""
Digest = Annotated[str, Field(examples=["9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"])]


class Input(BaseModel):
    """Base class of request bodies. Unknown fields and wrong types are errors, so that a misspelt field does not
    silently keep its default."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class Output(BaseModel):
    """Base class of responses, which are read from the attributes of a database row. Fields with defaults are always
    sent."""

    model_config = ConfigDict(
        from_attributes=True, protected_namespaces=(), json_schema_serialization_defaults_required=True
    )


def optional(description: str | None = None) -> Any:
    """Returns a field of a PATCH body that clients may omit. An omitted field keeps its value, unlike one sent as
    null. Without `description` it has that of its type."""
    if description is None:
        return Field(default=None, json_schema_extra=_without_default)
    return Field(default=None, json_schema_extra=_without_default, description=description)


def _without_default(schema: dict[str, Any]) -> None:
    schema.pop("default", None)


Row = TypeVar("Row")
Item = TypeVar("Item", bound=BaseModel)
PAGE_BYTES = 2**20


class Listing(BaseModel, Generic[Item]):
    """One page of a list."""

    data: list[Item] = Field(description="Up to `limit` items and about 1 MiB.")
    next_cursor: str | None = Field(description="Pass it as `cursor` to get the next page. Null on the last page.")


def exactly_one(first: str, second: str) -> list[JsonValue]:
    """Returns the `oneOf` of a JSON schema in which exactly one of two fields is given; null counts as not given."""
    return [
        {"required": [name], "properties": {name: {"not": {"type": "null"}}, other: {"type": "null"}}}
        for name, other in ((first, second), (second, first))
    ]


def listing(page: Page[Row], render: Callable[[Row], Item], max_bytes: int = PAGE_BYTES) -> Listing[Item]:
    """Renders a page of database rows as a response. It ends early with the item that reaches `max_bytes`, and the next
    page then continues after that item."""
    data: list[Item] = []
    size = 0
    for row in page.data:
        data.append(render(row))
        size += len(data[-1].model_dump_json())
        if size >= max_bytes:
            break
    return Listing(data=data, next_cursor=page.first(len(data)).next_cursor)


def changes(body: Input) -> dict[str, object]:
    """Returns the fields that the client sent in a PATCH body, by name."""
    return body.model_dump(exclude_unset=True)


class Problem(BaseModel):
    """Error in the form of problem details (RFC 9457). `code` is stable; `detail` explains what to do."""

    type: str = Field(examples=["https://difffit.dev/problems/not_found"])
    title: str = Field(examples=["Not found"])
    status: int = Field(examples=[404])
    detail: str = Field(examples=["There is no domain 'dom_01m84b6j2hsp29f4pz3j0s1ax6'."])
    code: str = Field(examples=["not_found"])
    request_id: str = Field(description="Also in the header X-Request-ID and in the service's logs.")
    errors: list[dict[str, Any]] | None = Field(
        None,
        description="Invalid fields or files, at most 20.",
        examples=[[{"field": "body.steps", "code": "less_than_equal", "detail": "Input should be less than 100000"}]],
    )
    error_count: int | None = Field(default=None, description="Total number of invalid fields or files.", examples=[1])
