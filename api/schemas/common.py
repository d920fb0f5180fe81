"""Types and helpers shared by all models."""

import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Generic, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from core.service.db.paging import Page


def _storable(text: str) -> str:
    """Raises ValueError for text that the databases or UTF-8 cannot store."""
    if "\0" in text:
        raise ValueError("must not contain NUL characters")
    text.encode()  # raises for a lone surrogate
    return text


def _one_line(text: str) -> str:
    if any(unicodedata.category(character) == "Cc" for character in text):
        raise ValueError("must not contain control characters")
    if not text.strip():
        raise ValueError("must not be blank")
    return _storable(text).strip()


@dataclass(frozen=True)
class _Documented:
    """Pattern for the OpenAPI document only; a validator checks the value and explains what is wrong."""

    pattern: str

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return handler(schema) | {"pattern": self.pattern}


def _whole(value: object) -> object:
    return int(value) if isinstance(value, float) and value.is_integer() else value


WHOLE = BeforeValidator(_whole)
"""Validator that accepts 3.0 as an integer, as JSON Schema does. Put it after a type's limits, or the document will
lack them."""
Integer = Annotated[int, WHOLE]
_SHOWN = r"[^\u0000-\u001f\u007f-\u009f]"
_STORABLE = (AfterValidator(_storable), _Documented(r"^[^\u0000]*$"))
_ONE_LINE = (AfterValidator(_one_line), _Documented(rf"^{_SHOWN}*[^\s\u0000-\u001f\u007f-\u009f]{_SHOWN}*$"))
Name = Annotated[str, Field(min_length=1, max_length=200, examples=["Product icons"]), *_ONE_LINE]
Description = Annotated[str, Field(max_length=2000, examples=["Flat icons with one accent colour"]), *_STORABLE]
Identifier = Annotated[str, Field(max_length=100), *_STORABLE]
ClassName = Annotated[str, Field(max_length=400, examples=["fruit"]), *_STORABLE]
"""Longer than the 100 characters of a data set's folder names: those are composed (NFC), input may be decomposed."""
Time = Annotated[datetime, Field(examples=["2026-11-23T13:58:16.885Z"])]
SignedUrl = Callable[[str], str]
"""Returns the signed URL of a path."""
Digest = Annotated[str, Field(examples=["9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"])]


class Input(BaseModel):
    """A request body. Unknown fields and wrong types are errors, so that a typo does not silently become a default."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class Output(BaseModel):
    """A response, read from the attributes of a database row. Fields with defaults are always sent."""

    model_config = ConfigDict(
        from_attributes=True, protected_namespaces=(), json_schema_serialization_defaults_required=True
    )


def optional(description: str | None = None) -> Any:
    """Returns a field of a PATCH body. It may be omitted, which differs from null."""
    return Field(default=None, description=description, json_schema_extra=lambda schema: schema.pop("default", None))


Row = TypeVar("Row")
Item = TypeVar("Item", bound=BaseModel)
PAGE_BYTES = 2**20


class Listing(BaseModel, Generic[Item]):
    """One page of a list."""

    data: list[Item] = Field(description="Up to `limit` items and about 1 MiB.")
    next_cursor: str | None = Field(description="Pass it as `cursor` to get the next page. Null on the last page.")


def listing(page: Page[Row], render: Callable[[Row], Item], max_bytes: int = PAGE_BYTES) -> Listing[Item]:
    """Renders a page, which ends with the item that reaches `max_bytes`. The next page continues after it."""
    data: list[Item] = []
    size = 0
    for row in page.data:
        data.append(render(row))
        size += len(data[-1].model_dump_json())
        if size >= max_bytes:
            break
    cut = len(data) < len(page.data)
    return Listing(data=data, next_cursor=page.cursor_of(page.data[len(data) - 1]) if cut else page.next_cursor)


def changes(body: Input) -> dict[str, object]:
    """Returns the fields of a PATCH body that were sent."""
    return body.model_dump(exclude_unset=True)


class Problem(BaseModel):
    """RFC 9457 problem details. `code` is stable; `detail` explains what to do."""

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
