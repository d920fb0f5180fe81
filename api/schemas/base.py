from dataclasses import asdict
from functools import cache
from typing import Any

from pydantic import BaseModel, Field, JsonValue

from api.schemas.common import Digest, Input
from api.schemas.finetunes import FinetuneCreate
from api.schemas.generations import GenerationCreate
from core.artifact.base import BaseDescription
from core.artifact.sampling import SamplingSettings

_NO_SETTINGS = ("_id", "_name", "_url", "image_size", "dry_run")
"""Ends of the names of request fields that are no settings, or that depend on the base."""


class SettingOut(BaseModel):
    """Default and limits of a setting, which is a field of a request."""

    default: JsonValue = Field(description="Value in a request without this field; null for a random one or none.")
    minimum: int | float | None = Field(description="Lowest value; `learning_rate` and `deadline_seconds` exceed it.")
    maximum: int | float | None
    choices: list[str] | None = Field(description="Possible values of a setting that is a word.")


class BaseOut(BaseModel):
    """Base model that the service serves, with the settings of requests."""

    name: str = Field(examples=["mini"])
    digest: Digest
    licence: str = Field(description="Licence of the base's weights, which also applies to adapters trained on it.")
    parameters: int
    image_sizes: list[int] = Field(
        description="Values of `image_size` of a fine-tune, in pixels. The first is the base's own, and the default."
    )
    class_names: list[str] = Field(
        description='Classes of the base itself (`"adapter_id": "base"`), by `class_id`. Empty if it names none.'
    )
    generation_settings: dict[str, SettingOut] = Field(description="Settings of generations, by field name.")
    finetune_settings: dict[str, SettingOut] = Field(description="Settings of fine-tunes, by field name.")

    @classmethod
    def of(cls, base: BaseDescription) -> "BaseOut":
        return cls(
            name=base.name,
            digest=base.digest,
            licence=base.licence,
            parameters=base.parameters,
            image_sizes=[base.image_size, 2 * base.image_size],
            class_names=list(base.class_names),
            generation_settings=_generation_settings(),
            finetune_settings=_settings(FinetuneCreate),
        )


def _generation_settings() -> dict[str, SettingOut]:
    """Returns the settings of generations. Some defaults depend on other settings: those of a request without any are
    returned."""
    completed = asdict(SamplingSettings.completed({}))
    return {
        name: setting.model_copy(update={"default": completed.get(name, setting.default)})
        for name, setting in _settings(GenerationCreate).items()
    }


@cache
def _settings(body: type[Input]) -> dict[str, SettingOut]:
    """Returns the settings of a request body by their names, with the limits in its JSON schema."""
    fields = body.model_json_schema()["properties"]
    return {name: _setting(field) for name, field in fields.items() if not name.endswith(_NO_SETTINGS)}


def _setting(field: dict[str, Any]) -> SettingOut:
    """Returns the default and the limits in a field's JSON schema. A field that may be null has the limits in its other
    type, and an interval in its ends."""
    limits = field | next((kind for kind in field.get("anyOf", ()) if kind["type"] != "null"), {})
    limits |= next(iter(limits.get("prefixItems", ())), {})
    maximum = limits.get("maximum")
    if "exclusiveMaximum" in limits:  # whole numbers only
        maximum = limits["exclusiveMaximum"] - 1
    return SettingOut(
        default=field.get("default"),
        minimum=limits.get("minimum", limits.get("exclusiveMinimum")),
        maximum=maximum,
        choices=limits.get("enum"),
    )
