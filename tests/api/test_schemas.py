"""Rules that all request models share."""

import importlib
import pkgutil
from collections.abc import Iterator
from dataclasses import fields, replace
from math import inf, nan
from typing import Annotated, Any

import pytest
from pydantic import ConfigDict, TypeAdapter, ValidationError

import api.schemas
from api.schemas.common import Input
from api.schemas.finetunes import FinetuneCreate
from core.artifact.errors import InvalidRequest
from core.artifact.training import DEFAULT_TRAINING, TrainingSettings

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


def is_refused(settings: TrainingSettings) -> bool:
    try:
        settings.check()
    except InvalidRequest:
        return True
    return False


def is_refused_by_the_api(**chosen: Any) -> bool:
    try:
        FinetuneCreate(dataset_id="ds_1", **chosen).to_request()
    except (ValidationError, InvalidRequest):
        return True
    return False


NUMBERS = [
    field.name
    for field in fields(TrainingSettings)
    if field.name in FinetuneCreate.model_fields and not isinstance(getattr(DEFAULT_TRAINING, field.name), str)
]


@pytest.mark.parametrize("name", NUMBERS)
def test_training_settings_have_the_same_limits_everywhere(name: str) -> None:
    assert len(NUMBERS) == 8
    edges = [-1, 1, 2, 10, 11, 1000, 1001, 1024, 1025, 100_000, 100_001, 2**53 - 1, 2**53, 2**64]
    is_fraction = name in ("learning_rate", "distill_guidance")
    values: list[Any] = [*edges, 0, 1e-9, 1.001, 10.001, inf, -inf, nan] if is_fraction else edges
    for value in values:
        refused = is_refused(replace(DEFAULT_TRAINING, **{name: value}))
        assert refused == is_refused_by_the_api(**{name: value}), value
    assert is_refused(replace(DEFAULT_TRAINING, **{name: -1}))


def test_guidance_needs_two_steps() -> None:
    """Since half of the steps learn it."""
    for steps, scale, expected in ((1, 3.0, True), (1, None, False), (2, 3.0, False)):
        assert is_refused(replace(DEFAULT_TRAINING, steps=steps, distill_guidance=scale)) == expected
        assert is_refused_by_the_api(steps=steps, distill_guidance=scale) == expected
    assert TrainingSettings.from_json({"steps": 1, "distill_guidance": 3.0})  # rows of earlier releases can be read
