"""Filters of the calls that list data sets, fine-tunes, adapters, generations, images and entries of the audit log."""

from collections.abc import Mapping
from datetime import date, datetime
from typing import Any, TypedDict


class DatasetFilters(TypedDict, total=False):
    name: str | None
    """Text that the name must contain, in upper or lower case."""
    created_after: datetime | None
    """A time without a zone is local."""
    created_before: datetime | None


class FinetuneFilters(TypedDict, total=False):
    dataset_id: str | None
    from_adapter_id: str | None
    """Id of a version that they continue from."""
    created_after: datetime | None
    """A time without a zone is local."""
    created_before: datetime | None


class AdapterFilters(TypedDict, total=False):
    name: str | None
    """Text that the name must contain, in upper or lower case."""
    class_name: str | None
    created_after: datetime | None
    """A time without a zone is local."""
    created_before: datetime | None


class GenerationFilters(TypedDict, total=False):
    class_name: str | None
    adapter_id: str | None
    """Id of a version, or `base` for the base itself."""
    created_after: datetime | None
    """A time without a zone is local."""
    created_before: datetime | None


class ImageFilters(GenerationFilters, total=False):
    seed: int | None
    favourite: bool | None
    label: str | None
    """Text that the label must contain, in upper or lower case."""


class AuditFilters(TypedDict, total=False):
    tenant_id: str | None
    actor_key_id: str | None
    """Id of the API key that acted."""
    action: str | None
    """Name of an action, such as `adapter.promote`."""
    created_after: datetime | None
    """A time without a zone is local."""
    created_before: datetime | None


def query(filters: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the filters as query parameters: times with their zone, days such as 2026-11-23."""
    return {name: _text(value) for name, value in filters.items()}


def _text(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.astimezone().isoformat()
    return value.isoformat() if isinstance(value, date) else value
