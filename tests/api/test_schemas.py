"""Rules that all request models share."""

import importlib
import pkgutil
from collections.abc import Iterator
from typing import Annotated

import pytest
from pydantic import ConfigDict, TypeAdapter

import api.schemas
from api.schemas.common import Input

MODULES = [importlib.import_module(f"api.schemas.{info.name}") for info in pkgutil.iter_modules(api.schemas.__path__)]
MODELS = [member for module in MODULES for member in vars(module).values() if isinstance(member, type)]


def integers() -> Iterator[tuple[type[Input], str, int]]:
    """Yields the integer fields of request bodies, each with a valid value."""
    for model in sorted({model for model in MODELS if issubclass(model, Input)}, key=lambda model: model.__name__):
        for name, schema in model.model_json_schema()["properties"].items():
            for kind in schema.get("anyOf", [schema]):
                if kind.get("type") == "integer":
                    yield model, name, kind.get("minimum", 1)


@pytest.mark.parametrize(("model", "field", "value"), list(integers()))
def test_integer_may_be_written_with_a_decimal_point(model: type[Input], field: str, value: int) -> None:
    """JSON Schema calls 3.0 an integer too."""
    info = model.model_fields[field]
    kind = TypeAdapter(Annotated[info.annotation, info], config=ConfigDict(strict=True))
    parsed = kind.validate_python(float(value))
    assert parsed == value
    assert isinstance(parsed, int)
