"""Client calls for adapters. Each adapter is one version of its domain."""

from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any, Unpack

from difffit._async.backend import away, opened
from difffit._async.session import AsyncPages, AsyncSession, given, receipt
from difffit.archives import open_archive, save_file
from difffit.errors import BadDownload
from difffit.filters import AdapterFilters, query
from difffit.models import Adapter, AdapterList, Domain


class AsyncAdapters:
    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    def list(
        self,
        domain_id: str | None = None,
        limit: int | None = None,
        *,
        status: str | None = None,
        **filters: Unpack[AdapterFilters],
    ) -> AsyncPages[Adapter]:
        """Yields the adapters of a domain, or of all your domains if `domain_id` is None, newest first. `status` and
        the filters select some of them."""
        wanted = {"status": status, **query(filters)}
        if domain_id is None:
            return self._session.pages("/v1/adapters", AdapterList, limit, wanted)
        return self._session.pages("/v1/domains/{id}/adapters", AdapterList, limit, wanted, id=domain_id)

    async def get(self, id: str) -> Adapter:
        return await self._session.call("GET", "/v1/adapters/{id}", Adapter, id=id)

    async def update(
        self,
        id: str,
        *,
        name: str | None = None,
        note: str | None = None,
        class_names: Mapping[str, str] | None = None,
    ) -> Adapter:
        """Changes the adapter's name or note, or renames classes: `class_names` maps current names to new ones. None
        changes nothing, and an empty name removes the name. Raises InvalidRequest."""
        body: dict[str, Any] = given({"note": note, "class_names": class_names})
        if name is not None:
            body["name"] = name or None
        return await self._session.call("PATCH", "/v1/adapters/{id}", Adapter, body=body, id=id)

    async def upload(self, domain_id: str, file: str | Path) -> Adapter:
        """Uploads a `.safetensors` file as a new adapter of the domain. The adapter must have been trained on the
        server's base model. Raises InvalidRequest, BaseMismatch."""
        async with opened(open_archive(Path(file))) as archive:
            path = "/v1/domains/{id}/adapters"
            return await self._session.call("POST", path, Adapter, upload=archive, id=domain_id)

    async def download(self, id: str, path: str | Path) -> Path:
        """Downloads an adapter to a `.safetensors` file and returns the file's path. If `path` is a folder, the file is
        named after the adapter's id. Raises BadDownload if the bytes do not match the adapter's SHA-256."""
        adapter = await self.get(id)
        data = (await self._session.send("GET", "/v1/adapters/{id}/download", id=id)).content
        if sha256(data).hexdigest() != adapter.sha256:
            raise BadDownload(id)
        return await away(save_file, data, Path(path), f"{id}.safetensors")

    async def promote(self, domain_id: str, adapter_id: str) -> Domain:
        """Makes an adapter the domain's active version, which generations use by default. To roll back, promote an
        older version."""
        path = "/v1/domains/{id}/adapters/{adapter_id}/promote"
        return await self._session.call("POST", path, Domain, id=domain_id, adapter_id=adapter_id)

    async def delete(self, id: str) -> str | None:
        """Deletes an adapter. Its images stay. Raises Conflict while it is the active version, or while an unfinished
        job needs it.

        Returns the id of the deletion receipt, which `client.deletions.get` reads; None if the response was lost and a
        retry found the adapter already deleted.
        """
        return receipt(await self._session.send("DELETE", "/v1/adapters/{id}", id=id))
