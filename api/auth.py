"""Authentication and permissions, as FastAPI dependencies of the route handlers."""

from typing import Annotated

from fastapi import Depends, Query, Request
from fastapi.security.utils import get_authorization_scheme_param

from api.signing import signature_is_valid
from core.service import keys
from core.service.errors import Forbidden, Unauthenticated
from core.service.tenancy import SIGNED_URL, Scope


def authenticate(request: Request) -> Scope:
    """Returns the scope (tenant and permissions) of the request's API key, and counts the request against the tenant's
    rate limit. Further calls for the same request return the same scope and count nothing.

    Each database statement is its own transaction, so that no transaction stays open while the handler waits. Raises
    Unauthenticated, RateLimited.
    """
    known: Scope | None = getattr(request.state, "scope", None)
    if known is not None:
        return known
    scheme, token = get_authorization_scheme_param(request.headers.get("authorization"))
    if scheme.lower() != "bearer" or not token or "\0" in token:
        raise Unauthenticated
    services = request.app.state.services
    try:
        with services.database.statements() as session:
            scope: Scope = keys.authenticate(session, token)
    except Unauthenticated:
        services.refused_keys.count(request, token)
        services.limits.count_wrong_key(request)
        raise
    request.state.scope = scope
    services.limits.admit(request, scope)
    return scope


def get_scope(request: Request) -> Scope:
    return authenticate(request)


def get_admin(request: Request) -> Scope:
    scope = authenticate(request)
    if scope.tenant_id is not None or "admin" not in scope.scopes:
        raise Forbidden("admin")
    return scope


def get_reader(request: Request) -> Scope:
    return _tenant_with("read", authenticate(request))


def get_writer(request: Request) -> Scope:
    return may_write(authenticate(request))


def may_write(scope: Scope) -> Scope:
    """Returns the scope unchanged if it is a tenant's and may write. Raises Forbidden otherwise."""
    return _tenant_with("write", scope)


Expires = Annotated[int | None, Query(ge=0, lt=2**53, description="Expiry of a signed URL, in seconds since 1970.")]
Signature = Annotated[str | None, Query(max_length=64, description="Signature of a signed URL.")]


def get_viewer(request: Request, expires: Expires = None, signature: Signature = None) -> Scope:
    """Returns the scope of a valid signed URL, or else of an API key that may read. A signed URL gives access only to
    the object in its path, so it needs no tenant: its scope is `SIGNED_URL`, which sees all tenants."""
    return _by_signed_url(request, expires, signature) or _tenant_with("read", authenticate(request))


def get_sender(request: Request, expires: Expires = None, signature: Signature = None) -> Scope:
    """Returns the scope of a valid signed URL for a part of a multipart upload, or else of an API key that may
    write."""
    return _by_signed_url(request, expires, signature) or may_write(authenticate(request))


ScopeDep = Annotated[Scope, Depends(get_scope)]
AdminDep = Annotated[Scope, Depends(get_admin)]
ReaderDep = Annotated[Scope, Depends(get_reader)]
WriterDep = Annotated[Scope, Depends(get_writer)]
ViewerDep = Annotated[Scope, Depends(get_viewer)]
SenderDep = Annotated[Scope, Depends(get_sender)]


def _tenant_with(name: str, scope: Scope) -> Scope:
    if scope.tenant_id is None or name not in scope.scopes:
        raise Forbidden(name)
    return scope


def _by_signed_url(request: Request, expires: int | None, signature: str | None) -> Scope | None:
    """Returns the scope `SIGNED_URL` if the request's URL has a valid signature, or None if it has no signature. Raises
    Unauthenticated if the signature is wrong or has expired."""
    if expires is None or signature is None:
        return None
    if not signature_is_valid(request.app.state.services.url_secret, request.scope["path"], expires, signature):
        raise Unauthenticated("The signed URL has expired or was changed. Read the object again for a new one.")
    request.state.url_expires = expires
    return SIGNED_URL
