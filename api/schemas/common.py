"""What all models share."""

import datetime
from typing import Annotated, Generic, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from core.db.paging import Page

Item = TypeVar("Item")


def _plain(text: str) -> str:
    if "\0" in text or not text.isprintable() or not text.strip():
        raise ValueError("must be printable text")
    text.encode()  # lone surrogates raise here
    return text.strip()


def _no_nul(text: str) -> str:
    if "\0" in text:
        raise ValueError("must not hold NUL characters")
    text.encode()
    return text


Name = Annotated[str, Field(min_length=1, max_length=200, examples=["Product icons"]), AfterValidator(_plain)]
Description = Annotated[str, Field(max_length=2000), AfterValidator(_no_nul)]
Identifier = Annotated[str, Field(max_length=100), AfterValidator(_no_nul)]
Time = datetime.datetime


class Input(BaseModel):
    """A request body: unknown fields are errors, so that a typing mistake is not silently a default."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class Output(BaseModel):
    model_config = ConfigDict(from_attributes=True, protected_namespaces=())


class Listing(BaseModel, Generic[Item]):
    data: list[Item]
    next_cursor: str | None = Field(description="Pass it as `cursor` for the next page; null on the last one.")


def listing(page: Page, model: type[Item]) -> "Listing[Item]":  # type: ignore[type-arg]
    return Listing(data=[model.model_validate(row) for row in page.data], next_cursor=page.next_cursor)  # type: ignore[attr-defined]


class Problem(BaseModel):
    """RFC 9457. `code` is stable; `detail` says what to do."""

    type: str = Field(examples=["https://difffit.dev/problems/not_found"])
    title: str = Field(examples=["Not found"])
    status: int = Field(examples=[404])
    detail: str = Field(examples=["There is no domain 'dom_x'."])
    code: str = Field(examples=["not_found"])
    request_id: str
    errors: list[dict[str, object]] | None = None
