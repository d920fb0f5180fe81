"""Rules that all request models share."""

import importlib
import pkgutil
from collections.abc import Iterator
from typing import Annotated

import pytest
from pydantic import ConfigDict, TypeAdapter

import api.schemas
from api.schemas.common import Input

MODULES = [importlib.import_module(f"api.schemas.{one.name}") for one in pkgutil.iter_modules(api.schemas.__path__)]
MODELS = [found for module in MODULES for found in vars(module).values() if isinstance(found, type)]


def integers() -> Iterator[tuple[type[Input], str, int]]:
    """Yields the integer fields of request bodies, each with a valid value."""
    for model in sorted({one for one in MODELS if issubclass(one, Input)}, key=lambda one: one.__name__):
        for name, schema in model.model_json_schema()["properties"].items():
            for kind in schema.get("anyOf", [schema]):
                if kind.get("type") == "integer":
                    yield model, name, kind.get("minimum", 1)


@pytest.mark.parametrize(("model", "field", "value"), list(integers()))
def test_integer_may_be_written_with_a_decimal_point(model: type[Input], field: str, value: int) -> None:
    """JSON Schema calls 3.0 an integer too."""
    info = model.model_fields[field]
    kind = TypeAdapter(Annotated[info.annotation, info], config=ConfigDict(strict=True))
    found = kind.validate_python(float(value))
    assert found == value
    assert isinstance(found, int)
