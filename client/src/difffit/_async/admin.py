"""Client calls that need an administrator's API key: tenants, their API keys, adapters, workers, audit log."""

from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any, Literal, Unpack

from difffit._async.session import AsyncPages, AsyncSession, given, receipt
from difffit.filters import AuditFilters, query
from difffit.models import (
    AdapterTotals,
    AdminAdapter,
    AdminAdapterList,
    Audit,
    AuditList,
    Deletion,
    DeletionList,
    DeletionReceipt,
    Key,
    KeyIssued,
    KeyList,
    Queue,
    QueueList,
    Tenant,
    TenantList,
    TenantUsageDay,
    TenantUsageDayList,
    Worker,
    WorkerList,
)


class AsyncTenants:
    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def create(
        self, name: str, *, weight: float | None = None, quotas: Mapping[str, int] | None = None
    ) -> Tenant:
        """Creates a tenant. The service's limits apply to quotas that are not given. Raises NameTaken."""
        body = given({"name": name, "weight": weight, "quotas": quotas})
        return await self._session.call("POST", "/v1/admin/tenants", Tenant, body=body)

    def list(self, limit: int | None = None, *, name: str | None = None) -> AsyncPages[Tenant]:
        """Yields all tenants, newest first. With `name`, yields only those whose name contains this text, in upper or
        lower case."""
        return self._session.pages("/v1/admin/tenants", TenantList, limit, {"name": name})

    async def get(self, id: str) -> Tenant:
        return await self._session.call("GET", "/v1/admin/tenants/{id}", Tenant, id=id)

    async def update(
        self,
        id: str,
        *,
        name: str | None = None,
        weight: float | None = None,
        quotas: Mapping[str, int] | None = None,
        keep_image_days: int | None = None,
        keep_favourites: bool | None = None,
    ) -> Tenant:
        """Changes the tenant's fields that are given (not None). `quotas` replaces all quotas. 0 for `keep_image_days`
        removes the tenant's own retention of images. Raises NameTaken."""
        body = given({"name": name, "weight": weight, "quotas": quotas, "keep_favourites": keep_favourites})
        body |= {} if keep_image_days is None else {"keep_image_days": keep_image_days or None}
        return await self._session.call("PATCH", "/v1/admin/tenants/{id}", Tenant, body=body, id=id)

    async def delete(self, id: str) -> str | None:
        """Deletes the tenant and everything it owns.

        Returns the id of the deletion receipt, which `client.admin.deletion` reads; None if the response was lost and a
        retry found the tenant already deleted.
        """
        return receipt(await self._session.send("DELETE", "/v1/admin/tenants/{id}", id=id))


class AsyncKeys:
    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def create(
        self,
        tenant_id: str,
        name: str,
        scopes: Sequence[Literal["read", "write"]] | None = None,
        lifetime_seconds: int | None = None,
    ) -> KeyIssued:
        """Creates an API key for a tenant. Only the returned object contains the secret, in its field `key`. If the
        server's response is lost, revokes the created API key and creates another one."""
        body = given({"name": name, "scopes": scopes, "lifetime_seconds": lifetime_seconds})
        return await self._create("/v1/admin/tenants/{id}/keys", body, id=tenant_id)

    async def create_admin(self, name: str, lifetime_seconds: int | None = None) -> KeyIssued:
        """Creates an administrator's API key, like `create`."""
        return await self._create("/v1/admin/keys", given({"name": name, "lifetime_seconds": lifetime_seconds}))

    def list(self, tenant_id: str, limit: int | None = None) -> AsyncPages[Key]:
        """Yields the tenant's API keys, newest first, without their secrets."""
        return self._session.pages("/v1/admin/tenants/{id}/keys", KeyList, limit, id=tenant_id)

    def list_admin(self, limit: int | None = None) -> AsyncPages[Key]:
        """Yields the administrators' API keys, newest first, without their secrets."""
        return self._session.pages("/v1/admin/keys", KeyList, limit)

    async def update(
        self, id: str, *, name: str | None = None, lifetime_seconds: int | Literal["endless"] | None = None
    ) -> Key:
        """Changes an API key's name or lifetime. None keeps the current value. A new lifetime starts now; `"endless"`
        removes the expiry date."""
        body = {**given({"name": name}), **_lifetime(lifetime_seconds)}
        return await self._session.call("PATCH", "/v1/admin/keys/{id}", Key, body=body, id=id)

    async def rotate(
        self,
        id: str,
        *,
        overlap_seconds: int | None = None,
        lifetime_seconds: int | Literal["endless"] | None = None,
    ) -> KeyIssued:
        """Replaces an API key by a new one. The old key keeps working for `overlap_seconds`. The new one gets the
        lifetime of the old one, unless `lifetime_seconds` is given; with `"endless"` it never expires. If the server's
        response is lost, replaces the new key once more, without overlap."""
        path, body = "/v1/admin/keys/{id}/rotate", _lifetime(lifetime_seconds)
        first = {**body, **given({"overlap_seconds": overlap_seconds})}
        issued = await self._session.call("POST", path, KeyIssued, body=first, id=id)
        while issued.key is None:
            again = {**body, "overlap_seconds": 0}
            issued = await self._session.call("POST", path, KeyIssued, body=again, id=issued.id)
        return issued

    async def revoke(self, id: str) -> None:
        """Revokes the API key, which stops working immediately."""
        await self._session.send("DELETE", "/v1/admin/keys/{id}", id=id)

    async def _create(self, path: str, body: Mapping[str, Any], **ids: str) -> KeyIssued:
        issued = await self._session.call("POST", path, KeyIssued, body=body, **ids)
        while issued.key is None:
            await self.revoke(issued.id)
            issued = await self._session.call("POST", path, KeyIssued, body=body, **ids)
        return issued


class AsyncAdmin:
    def __init__(self, session: AsyncSession) -> None:
        self._session = session
        self.tenants = AsyncTenants(session)
        self.keys = AsyncKeys(session)

    def adapters(
        self,
        limit: int | None = None,
        *,
        tenant_id: str | None = None,
        domain_id: str | None = None,
        base_digest: str | None = None,
        status: str | None = None,
    ) -> AsyncPages[AdminAdapter]:
        """Yields the adapters of all tenants that match the filters, newest first. Each adapter lists the workers that
        have it in memory."""
        query = {"tenant_id": tenant_id, "domain_id": domain_id, "base_digest": base_digest, "status": status}
        return self._session.pages("/v1/admin/adapters", AdminAdapterList, limit, query)

    async def adapter_totals(
        self,
        *,
        tenant_id: str | None = None,
        domain_id: str | None = None,
        base_digest: str | None = None,
        status: str | None = None,
    ) -> AdapterTotals:
        """Returns the number and total size of the adapters that match the filters, and the number of their tenants and
        domains."""
        query = {"tenant_id": tenant_id, "domain_id": domain_id, "base_digest": base_digest, "status": status}
        return await self._session.call("GET", "/v1/admin/adapters/totals", AdapterTotals, query=query)

    def queues(self) -> AsyncPages[Queue]:
        """Yields, for each job queue, the numbers of waiting and running jobs."""
        return self._session.pages("/v1/admin/queues", QueueList, None)

    def workers(self) -> AsyncPages[Worker]:
        """Yields the live workers. Each worker lists the adapters that it has in memory."""
        return self._session.pages("/v1/admin/workers", WorkerList, None)

    def usage(
        self,
        limit: int | None = None,
        *,
        tenant_id: str | None = None,
        from_day: date | None = None,
        to_day: date | None = None,
    ) -> AsyncPages[TenantUsageDay]:
        """Yields one entry per tenant and day with the usage of that day, newest first. The days are those from
        `from_day` to `to_day` in UTC, both included, by default the last 30 days."""
        filters = query({"tenant_id": tenant_id, "from_day": from_day, "to_day": to_day})
        return self._session.pages("/v1/admin/usage", TenantUsageDayList, limit, filters)

    def audit(self, limit: int | None = None, **filters: Unpack[AuditFilters]) -> AsyncPages[Audit]:
        """Yields the entries of the audit log that match the filters, newest first."""
        return self._session.pages("/v1/admin/audit", AuditList, limit, query(filters))

    def deletions(self, limit: int | None = None, *, tenant_id: str | None = None) -> AsyncPages[Deletion]:
        """Yields the receipts of all deletions, newest first."""
        return self._session.pages("/v1/admin/deletions", DeletionList, limit, {"tenant_id": tenant_id})

    async def deletion(self, id: str) -> DeletionReceipt:
        """Returns the receipt of a deletion. Its `done_at` is set when everything has been deleted."""
        return await self._session.call("GET", "/v1/admin/deletions/{id}", DeletionReceipt, id=id)


def _lifetime(seconds: int | Literal["endless"] | None) -> dict[str, int | None]:
    """Returns the field `lifetime_seconds` of a request, null for `"endless"`; no field for None."""
    return {} if seconds is None else {"lifetime_seconds": None if seconds == "endless" else seconds}
