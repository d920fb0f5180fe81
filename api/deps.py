"""Dependencies of the handlers, as named types."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Depends, Query, Request, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from sqlalchemy.orm import Session

from api.notifier import Notifier
from core.broker import CeleryDispatcher
from core.config import Settings
from core.db.paging import PageRequest
from core.db.session import Database
from core.errors import Forbidden, Unauthenticated
from core.storage import ObjectStore
from core.tenancy import Scope
from core.tenants import service as tenants


@dataclass(frozen=True)
class Services:
    """What one process of the API holds."""

    settings: Settings
    database: Database
    store: ObjectStore
    dispatcher: CeleryDispatcher
    notifier: Notifier
    url_secret: bytes


def get_services(request: Request) -> Services:
    services: Services = request.app.state.services
    return services


ServicesDep = Annotated[Services, Depends(get_services)]


def get_session(services: ServicesDep) -> Iterator[Session]:
    """One transaction a request: committed before the answer is sent."""
    with services.database.session() as session:
        yield session


SessionDep = Annotated[Session, Depends(get_session, scope="function")]

_bearer = HTTPBearer(auto_error=False, description="An API key: `dfk_…`.")


def get_scope(
    services: ServicesDep, credentials: Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)]
) -> Scope:
    """Who asks. Raises Unauthenticated. Its transaction is its own, so that no handler holds one while it waits."""
    if credentials is None:
        raise Unauthenticated()
    with services.database.session() as session:
        return tenants.authenticate(session, credentials.credentials)


ScopeDep = Annotated[Scope, Depends(get_scope)]


def get_admin(scope: ScopeDep) -> Scope:
    if scope.tenant_id is not None or "admin" not in scope.scopes:
        raise Forbidden("admin")
    return scope


def get_reader(scope: ScopeDep) -> Scope:
    if scope.tenant_id is None or "read" not in scope.scopes:
        raise Forbidden("read")
    return scope


def get_writer(scope: ScopeDep) -> Scope:
    if scope.tenant_id is None or "write" not in scope.scopes:
        raise Forbidden("write")
    return scope


AdminDep = Annotated[Scope, Depends(get_admin)]
ReaderDep = Annotated[Scope, Depends(get_reader)]
WriterDep = Annotated[Scope, Depends(get_writer)]


def get_page(
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    cursor: Annotated[str | None, Query(max_length=200, description="`next_cursor` of the page before.")] = None,
) -> PageRequest:
    return PageRequest(limit, cursor)


PageDep = Annotated[PageRequest, Depends(get_page)]


def changes(body: Any) -> dict[str, object]:
    """The fields of a PATCH body that were sent, null left out."""
    return {name: value for name, value in body.model_dump(exclude_unset=True).items() if value is not None}
