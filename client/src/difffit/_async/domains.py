"""Domains: image styles that the base is taught."""

from difffit._async.session import AsyncPages, AsyncSession, given, receipt
from difffit.models import Domain, DomainList


class AsyncDomains:
    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def create(self, name: str, description: str | None = None) -> Domain:
        """Creates a domain. Names are unique among your domains. Raises NameTaken."""
        body = given({"name": name, "description": description})
        return await self._session.call("POST", "/v1/domains", Domain, body=body)

    def list(self, limit: int | None = None) -> AsyncPages[Domain]:
        """Yields your domains, newest first; all of them without a limit."""
        return self._session.pages("/v1/domains", DomainList, limit)

    async def get(self, id: str) -> Domain:
        return await self._session.call("GET", "/v1/domains/{id}", Domain, id=id)

    async def update(self, id: str, *, name: str | None = None, description: str | None = None) -> Domain:
        """Changes the fields that are not None. Raises NameTaken."""
        body = given({"name": name, "description": description})
        return await self._session.call("PATCH", "/v1/domains/{id}", Domain, body=body, id=id)

    async def delete(self, id: str) -> str | None:
        """Deletes the domain and its data sets, fine-tunes, adapters and images.

        Returns the id of the receipt, for `deletions.get`; None when the response was lost.
        """
        return receipt(await self._session.send("DELETE", "/v1/domains/{id}", id=id))
