"""Client calls for domains. A domain is an image style on which the base model is fine-tuned."""

from difffit._async.session import AsyncPages, AsyncSession, given, receipt
from difffit.models import Domain, DomainList


class AsyncDomains:
    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def create(self, name: str, description: str | None = None) -> Domain:
        """Creates a domain. Its name must be unique among your domains. Raises NameTaken."""
        body = given({"name": name, "description": description})
        return await self._session.call("POST", "/v1/domains", Domain, body=body)

    def list(
        self, limit: int | None = None, *, name: str | None = None, name_contains: str | None = None
    ) -> AsyncPages[Domain]:
        """Yields your domains, newest first: at most `limit`, or all if it is None. With `name`, yields only the domain
        with this name; with `name_contains`, only domains whose name contains this text, in upper or lower case."""
        query = {"name": name, "name_contains": name_contains}
        return self._session.pages("/v1/domains", DomainList, limit, query)

    async def get(self, id: str) -> Domain:
        return await self._session.call("GET", "/v1/domains/{id}", Domain, id=id)

    async def update(
        self,
        id: str,
        *,
        name: str | None = None,
        description: str | None = None,
        keep_image_days: int | None = None,
        keep_favourites: bool | None = None,
    ) -> Domain:
        """Changes the domain's name, description or retention of images: days until they are deleted, and whether
        favourites stay then. None keeps the current value, 0 days remove the domain's own retention. Raises
        NameTaken."""
        body = given({"name": name, "description": description, "keep_favourites": keep_favourites})
        body |= {} if keep_image_days is None else {"keep_image_days": keep_image_days or None}
        return await self._session.call("PATCH", "/v1/domains/{id}", Domain, body=body, id=id)

    async def delete(self, id: str) -> str | None:
        """Deletes the domain and its data sets, fine-tunes, adapters and images.

        Returns the id of the deletion receipt, which `client.deletions.get` reads; None if the response was lost and a
        retry found the domain already deleted.
        """
        return receipt(await self._session.send("DELETE", "/v1/domains/{id}", id=id))
