"""Receipts of what was deleted."""

from collections.abc import AsyncIterator

from difffit._async.session import AsyncSession
from difffit.models import Deletion, DeletionList, DeletionReceipt


class AsyncDeletions:
    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    def list(self, limit: int | None = None) -> AsyncIterator[Deletion]:
        """Of your domains, newest first."""
        return self._session.pages("/v1/deletions", DeletionList, limit)

    async def get(self, id: str) -> DeletionReceipt:
        """What went; `done_at` tells when the last of it was gone."""
        return await self._session.call("GET", "/v1/deletions/{id}", DeletionReceipt, id=id)
