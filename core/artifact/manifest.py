"""Manifest of an adapter file: the data, the base and the settings from which the adapter was trained. It has no ids
and no times, so that equal training gives equal bytes."""

import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Self, get_args

from core.artifact.sites import Method, MethodSites, sites_of

FORMAT_VERSION = 1
_TEXT_LENGTH = 1000
_JOINERS = re.compile("[\u200c\u200d\U000e0020-\U000e007f]")


@dataclass(frozen=True, kw_only=True)
class Manifest:
    method: Method
    preset: str | None
    sites: MethodSites
    """Settings of the method that determine the names and shapes of the tensors, so that an adapter can be loaded from
    its file alone."""
    class_names: tuple[str, ...]
    base_name: str
    base_digest: str
    base_licence: str
    dataset_digest: str
    training: dict[str, Any]
    """Training settings as plain values: numbers, booleans and short texts."""
    format_version: int = FORMAT_VERSION
    image_size: int | None = None
    """Side of the images in pixels. None, which the file omits, means the base's own image size."""

    @property
    def learned_guidance(self) -> float | None:
        """Highest guidance scale that the adapter has learned; None if it has learned none."""
        return learned_guidance(self.training)

    def to_json(self) -> dict[str, Any]:
        return {name: value for name, value in asdict(self).items() if (name, value) != ("image_size", None)}

    @classmethod
    def from_json(cls, values: Any) -> Self:
        """Builds a manifest from its parsed JSON. Raises ValueError, with a sentence for the user, if the JSON is not a
        valid manifest."""
        if not isinstance(values, dict) or {*values, "image_size"} != {field.name for field in fields(cls)}:
            raise ValueError("the manifest does not have the expected fields")
        version, preset, names = values["format_version"], values["preset"], values["class_names"]
        if type(version) is not int or version != FORMAT_VERSION:
            raise ValueError("its format version is unknown to this release")
        if not all(is_text(values[name]) for name in ("base_name", "base_digest", "base_licence", "dataset_digest")):
            raise ValueError("a field of the manifest is not a short text")
        if preset is not None and not is_text(preset):
            raise ValueError("the preset is not a short text")
        if values["method"] not in get_args(Method):
            raise ValueError("the method is unknown to this release")
        if not isinstance(names, list) or not names or not all(name and is_text(name) for name in names):
            raise ValueError("class_names must be a list of names")
        if len(set(names)) != len(names):
            raise ValueError("a class name occurs twice")
        size = values.get("image_size")
        if size is not None and (type(size) is not int or not 0 < size < 2**16):
            raise ValueError("image_size is not a number of pixels")
        sites, training = sites_of(values["method"], values["sites"]), _training(values["training"])
        return cls(**{**values, "class_names": tuple(names), "sites": sites, "training": training})


def learned_guidance(training: Mapping[str, Any]) -> float | None:
    """Returns the highest guidance scale that an adapter has learned, from its manifest's training settings; None if it
    has learned none."""
    value: Any = training.get("distill_guidance")
    return float(value) if _is_number(value) and value > 1 else None


def trained_steps(training: Mapping[str, Any]) -> int:
    """Returns the number of steps that trained an adapter, from its manifest's training settings; 0 if they do not say
    it."""
    value: Any = training.get("adapter_step", training.get("steps"))
    return value if isinstance(value, int) and value > 0 else 0


def is_text(value: Any) -> bool:
    """Returns whether a value is a short text without control characters and unpaired surrogates, which databases and
    terminals reject. Allows the invisible joiners of emoji and of Indic and Persian script, and the tag characters of
    flags."""
    return isinstance(value, str) and len(value) <= _TEXT_LENGTH and _JOINERS.sub("", value).isprintable()


def _training(values: Any) -> dict[str, Any]:
    if not isinstance(values, dict) or not all(is_text(name) for name in values):
        raise ValueError("the training settings are not an object with names")
    if not all(
        value is None or isinstance(value, bool) or is_text(value) or _is_number(value) for value in values.values()
    ):
        raise ValueError("a training setting is not a number, a boolean or a short text")
    return values


def _is_number(value: Any) -> bool:
    is_integer = isinstance(value, int) and not isinstance(value, bool)
    return (is_integer and abs(value) < 2**63) or (isinstance(value, float) and math.isfinite(value))
