"""What an adapter's file says of itself. No ids and no times, so that equal training gives equal bytes."""

from dataclasses import asdict, dataclass, fields
from typing import Any, Self, get_args

from core.artifact.sites import Method, Sites

FORMAT_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Manifest:
    method: Method
    preset: str | None
    sites: Sites
    class_names: tuple[str, ...]
    base_name: str
    base_digest: str
    base_licence: str
    dataset_digest: str
    training: dict[str, Any]
    """The trainer's settings."""
    format_version: int = FORMAT_VERSION

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, values: Any) -> Self:
        """Raises ValueError with a sentence when the value is not a manifest."""
        if not isinstance(values, dict) or set(values) != {field.name for field in fields(cls)}:
            raise ValueError("the manifest does not have the expected fields")
        if values["format_version"] != FORMAT_VERSION:
            raise ValueError(f"format version {values['format_version']!r} is not known here")
        texts = [values[name] for name in ("base_name", "base_digest", "base_licence", "dataset_digest")]
        names, sites = values["class_names"], values["sites"]
        if not all(isinstance(text, str) for text in texts) or not isinstance(values["preset"], str | None):
            raise ValueError("a field of the manifest is not text")
        if not isinstance(names, list) or not names or not all(isinstance(name, str) and name for name in names):
            raise ValueError("class_names must be a list of names")
        if values["method"] not in get_args(Method) or not isinstance(values["training"], dict):
            raise ValueError("the method is not known here")
        return cls(**{**values, "class_names": tuple(names), "sites": _sites(sites)})


def _sites(values: Any) -> Sites:
    switches = {field.name for field in fields(Sites) if field.type is bool}
    if not isinstance(values, dict) or set(values) != {field.name for field in fields(Sites)}:
        raise ValueError("sites do not have the expected fields")
    if not all(isinstance(values[name], bool) for name in switches):
        raise ValueError("a switch of the sites is not true or false")
    if type(values["first_block"]) is not int or type(values["last_block"]) not in (int, type(None)):
        raise ValueError("the block range of the sites is not made of whole numbers")
    return Sites.from_json(values)
