"""Domains: image styles that the base is taught."""

from collections.abc import AsyncIterator

from difffit._async.session import AsyncSession, given, receipt
from difffit.models import Domain, DomainList


class AsyncDomains:
    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def create(self, name: str, description: str | None = None) -> Domain:
        """Names are unique among your domains. Raises NameTaken."""
        body = given({"name": name, "description": description})
        return await self._session.call("POST", "/v1/domains", Domain, body=body)

    def list(self, limit: int | None = None) -> AsyncIterator[Domain]:
        """Newest first; all of them without a limit."""
        return self._session.pages("/v1/domains", DomainList, limit)

    async def get(self, id: str) -> Domain:
        return await self._session.call("GET", "/v1/domains/{id}", Domain, id=id)

    async def update(self, id: str, *, name: str | None = None, description: str | None = None) -> Domain:
        """What is left out stays as it is. Raises NameTaken."""
        body = given({"name": name, "description": description})
        return await self._session.call("PATCH", "/v1/domains/{id}", Domain, body=body, id=id)

    async def delete(self, id: str) -> str | None:
        """With its data sets, fine-tunes, adapters and images. Returns the id of the receipt, for `deletions.get`; None
        when the answer was lost on the way."""
        return receipt(await self._session.send("DELETE", "/v1/domains/{id}", id=id))
