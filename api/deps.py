"""FastAPI dependencies of the route handlers, as `Annotated` types."""

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Header, Query, Request

from api.limits import RequestLimits
from api.notifier import Notifier
from api.refused_keys import RefusedKeys
from api.schemas.common import Name
from core.service.broker import CeleryDispatcher
from core.service.config import Settings
from core.service.db.paging import PageRequest
from core.service.db.session import Database
from core.service.storage import ObjectStore


@dataclass(frozen=True)
class Services:
    """Objects that all requests of one API process share."""

    settings: Settings
    database: Database
    store: ObjectStore
    dispatcher: CeleryDispatcher
    notifier: Notifier
    limits: RequestLimits
    refused_keys: RefusedKeys
    url_secret: bytes


async def get_services(request: Request) -> Services:
    services: Services = request.app.state.services
    return services


ServicesDep = Annotated[Services, Depends(get_services)]


async def get_database(request: Request) -> Database:
    return (await get_services(request)).database


DatabaseDep = Annotated[Database, Depends(get_database)]
"""Database, in which each handler opens and ends its own transaction. A dependency would hold the transaction across
thread-pool calls, which can deadlock: it waits for a thread while every thread waits for its lock or connection."""


async def get_page(
    limit: Annotated[
        int, Query(ge=1, le=100, description="Maximum number of items per page; fewer if they are large.")
    ] = 20,
    cursor: Annotated[str | None, Query(max_length=64, description="`next_cursor` of the previous page.")] = None,
) -> PageRequest:
    return PageRequest(limit, cursor)


OF_STATUS = Query(description="Only items with this status.")
OF_NAME = Annotated[Name | None, Query(description="Only the item with this name.")]
IfMatch = Annotated[
    str | None,
    Header(
        max_length=1000,
        description="The `ETag` that you read. The request is rejected with 412 if the object has changed since.",
        examples=['"20261123135816885000"'],
    ),
]
PageDep = Annotated[PageRequest, Depends(get_page)]
