"""Filters of lists of data sets, generations and images, as FastAPI dependencies."""

import re
from dataclasses import replace
from datetime import date
from typing import Annotated

from fastapi import Depends, Query
from pydantic import AwareDatetime, BeforeValidator

from api.schemas.common import WHOLE, ClassName, Identifier, Label, Name
from core.service.adapters import AdapterFilter
from core.service.audit import AuditFilter
from core.service.datasets.service import DatasetFilter
from core.service.finetunes.service import FinetuneFilter
from core.service.generations import GenerationFilter
from core.service.images import ImageFilter
from core.service.metering import MAX_PERIOD_DAYS, Period

_TIME = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)")
_DAY = re.compile(r"\d{4}-\d\d-\d\d")


def _rfc_3339(value: object) -> object:
    """Returns the text of a time. Raises ValueError for other forms that pydantic would accept, such as numbers."""
    if not isinstance(value, str) or not _TIME.fullmatch(value):
        raise ValueError("must be a time with a zone, such as 2026-11-23T13:58:16Z")
    return value


def _true_or_false(value: object) -> object:
    """Returns the text of a flag. Raises ValueError for other forms that pydantic would accept, such as `on`."""
    if value not in ("true", "false"):
        raise ValueError("must be true or false")
    return value


def _iso_day(value: object) -> object:
    """Returns the text of a day. Raises ValueError for other forms that pydantic would accept, such as numbers."""
    if not isinstance(value, str) or not _DAY.fullmatch(value):
        raise ValueError("must be a day, such as 2026-11-23")
    return value


Day = Annotated[date, BeforeValidator(_iso_day)]
Moment = Annotated[AwareDatetime, BeforeValidator(_rfc_3339)]
Flag = Annotated[bool, BeforeValidator(_true_or_false)]


async def get_dataset_filter(
    name: Annotated[
        Name | None, Query(description="Only data sets whose name contains this text, in any case.")
    ] = None,
    created_after: Annotated[Moment | None, Query(description="Only data sets created after this time.")] = None,
    created_before: Annotated[Moment | None, Query(description="Only data sets created before this time.")] = None,
) -> DatasetFilter:
    return DatasetFilter(name=name, created_after=created_after, created_before=created_before)


DatasetFilterDep = Annotated[DatasetFilter, Depends(get_dataset_filter)]


async def get_finetune_filter(
    dataset_id: Annotated[Identifier | None, Query(description="Only fine-tunes on this data set.")] = None,
    from_adapter_id: Annotated[
        Identifier | None, Query(description="Only fine-tunes that continue from this version.")
    ] = None,
    created_after: Annotated[Moment | None, Query(description="Only fine-tunes created after this time.")] = None,
    created_before: Annotated[Moment | None, Query(description="Only fine-tunes created before this time.")] = None,
) -> FinetuneFilter:
    return FinetuneFilter(
        dataset_id=dataset_id,
        from_adapter_id=from_adapter_id,
        created_after=created_after,
        created_before=created_before,
    )


FinetuneFilterDep = Annotated[FinetuneFilter, Depends(get_finetune_filter)]


async def get_adapter_filter(
    name: Annotated[Name | None, Query(description="Only versions whose name contains this text, in any case.")] = None,
    class_name: Annotated[ClassName | None, Query(description="Only versions with a class of this name.")] = None,
    created_after: Annotated[Moment | None, Query(description="Only versions created after this time.")] = None,
    created_before: Annotated[Moment | None, Query(description="Only versions created before this time.")] = None,
) -> AdapterFilter:
    return AdapterFilter(name=name, class_name=class_name, created_after=created_after, created_before=created_before)


AdapterFilterDep = Annotated[AdapterFilter, Depends(get_adapter_filter)]


async def get_generation_filter(
    class_name: Annotated[ClassName | None, Query(description="Only images of this class.")] = None,
    adapter_id: Annotated[
        Identifier | None, Query(description="Only images of this version, or `base` for those of the base itself.")
    ] = None,
    created_after: Annotated[Moment | None, Query(description="Only generations created after this time.")] = None,
    created_before: Annotated[Moment | None, Query(description="Only generations created before this time.")] = None,
) -> GenerationFilter:
    return GenerationFilter(
        class_name=class_name, adapter_id=adapter_id, created_after=created_after, created_before=created_before
    )


GenerationFilterDep = Annotated[GenerationFilter, Depends(get_generation_filter)]


async def get_image_filter(
    shared: GenerationFilterDep,
    seed: Annotated[
        Annotated[int, Query(ge=0, lt=2**54), WHOLE] | None, Query(description="Only images with this seed.")
    ] = None,
    favourite: Annotated[Flag | None, Query(description="Only favourites, or only others.")] = None,
    label: Annotated[Label | None, Query(description="Only images whose label contains this text.")] = None,
) -> ImageFilter:
    return ImageFilter(**vars(shared), seed=seed, favourite=favourite, label=label)


ImageFilterDep = Annotated[ImageFilter, Depends(get_image_filter)]


async def get_owned_generation_filter(
    shared: GenerationFilterDep,
    domain_id: Annotated[Identifier | None, Query(description="Only generations of this domain.")] = None,
) -> GenerationFilter:
    return replace(shared, domain_id=domain_id)


async def get_owned_image_filter(
    wanted: ImageFilterDep,
    domain_id: Annotated[Identifier | None, Query(description="Only images of this domain.")] = None,
) -> ImageFilter:
    return replace(wanted, domain_id=domain_id)


OwnedGenerationFilterDep = Annotated[GenerationFilter, Depends(get_owned_generation_filter)]
OwnedImageFilterDep = Annotated[ImageFilter, Depends(get_owned_image_filter)]


async def get_period(
    from_day: Annotated[
        Day | None,
        Query(description=f"First day, in UTC; by default 30 days before `to_day`, and at most {MAX_PERIOD_DAYS - 1}."),
    ] = None,
    to_day: Annotated[Day | None, Query(description="Last day, in UTC, included; by default today.")] = None,
) -> Period:
    return Period(from_day, to_day)


PeriodDep = Annotated[Period, Depends(get_period)]


async def get_audit_filter(
    tenant_id: Annotated[Identifier | None, Query(description="Only entries of this tenant.")] = None,
    actor_key_id: Annotated[Identifier | None, Query(description="Only actions with this API key.")] = None,
    action: Annotated[Identifier | None, Query(description="Only this action.", examples=["adapter.promote"])] = None,
    created_after: Annotated[Moment | None, Query(description="Only entries created after this time.")] = None,
    created_before: Annotated[Moment | None, Query(description="Only entries created before this time.")] = None,
) -> AuditFilter:
    return AuditFilter(tenant_id, actor_key_id, action, created_after, created_before)


AuditFilterDep = Annotated[AuditFilter, Depends(get_audit_filter)]
