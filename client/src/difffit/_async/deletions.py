"""Client calls for the receipts of your deletions, which report when the data has been deleted."""

from difffit._async.session import AsyncPages, AsyncSession
from difffit.models import Deletion, DeletionList, DeletionReceipt


class AsyncDeletions:
    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    def list(self, limit: int | None = None) -> AsyncPages[Deletion]:
        """Yields the receipts of your deletions, newest first."""
        return self._session.pages("/v1/deletions", DeletionList, limit)

    async def get(self, id: str) -> DeletionReceipt:
        """Returns the receipt of a deletion. Its `done_at` is set when everything has been deleted."""
        return await self._session.call("GET", "/v1/deletions/{id}", DeletionReceipt, id=id)
