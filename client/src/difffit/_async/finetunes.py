"""Client calls for fine-tunes, the jobs that train adapters on data sets."""

from collections.abc import AsyncIterator
from typing import Unpack

import httpx
from httpx_sse import EventSource, SSEError

from difffit._async.backend import sleep
from difffit._async.session import AsyncPages, AsyncSession, receipt
from difffit._async.waiting import ended
from difffit.errors import ApiError, UnexpectedAnswer
from difffit.events import Event, EventStream
from difffit.filters import FinetuneFilters, query
from difffit.models import Estimate, Finetune, FinetuneList, Metrics
from difffit.requests import FinetuneSettings
from difffit.retries import Retries


class AsyncFinetunes:
    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def start(self, domain_id: str, dataset_id: str, **settings: Unpack[FinetuneSettings]) -> Finetune:
        """Starts a fine-tune on a data set and returns it without waiting. Omitted settings take the server's defaults.
        Raises Conflict if the data set is not ready."""
        body = {"dataset_id": dataset_id, **settings}
        return await self._session.call("POST", "/v1/domains/{id}/finetunes", Finetune, body=body, id=domain_id)

    async def estimate(self, domain_id: str, dataset_id: str, **settings: Unpack[FinetuneSettings]) -> Estimate:
        """Returns the estimated cost of a fine-tune with these settings, without starting it."""
        body = {"dataset_id": dataset_id, **settings, "dry_run": True}
        return await self._session.call("POST", "/v1/domains/{id}/finetunes", Estimate, body=body, id=domain_id)

    def list(
        self,
        domain_id: str | None = None,
        limit: int | None = None,
        *,
        status: str | None = None,
        **filters: Unpack[FinetuneFilters],
    ) -> AsyncPages[Finetune]:
        """Yields the fine-tunes of a domain, or of all your domains if `domain_id` is None, newest first. `status` and
        the filters select some of them."""
        wanted = {"status": status, **query(filters)}
        if domain_id is None:
            return self._session.pages("/v1/finetunes", FinetuneList, limit, wanted)
        return self._session.pages("/v1/domains/{id}/finetunes", FinetuneList, limit, wanted, id=domain_id)

    async def get(self, id: str) -> Finetune:
        return await self._session.call("GET", "/v1/finetunes/{id}", Finetune, id=id)

    async def metrics(self, id: str) -> Metrics:
        """Returns the loss curve of a fine-tune."""
        return await self._session.call("GET", "/v1/finetunes/{id}/metrics", Metrics, id=id)

    async def cancel(self, id: str) -> Finetune:
        """Cancels a fine-tune: immediately if it is queued, after the current training step if it is running. Raises
        Conflict if it has already ended."""
        return await self._session.call("POST", "/v1/finetunes/{id}/cancel", Finetune, id=id)

    async def delete(self, id: str) -> str | None:
        """Deletes a fine-tune that has ended, with its events and sample images. Raises Conflict while it runs, or
        while the version that it trained exists.

        Returns the id of the deletion receipt, which `client.deletions.get` reads; None if the response was lost and a
        retry found the fine-tune already deleted.
        """
        return receipt(await self._session.send("DELETE", "/v1/finetunes/{id}", id=id))

    async def wait(self, id: str, timeout: float | None = None) -> Finetune:
        """Waits until the fine-tune has succeeded, and returns it. Raises JobFailed if it failed or was cancelled, and
        WaitTimeout after `timeout` seconds."""
        return await ended("Fine-tune", lambda: self.get(id), timeout)

    async def events(self, id: str, after: int = 0) -> AsyncIterator[Event]:
        """Yields the events of a fine-tune as they happen, until it has ended. `after` is the id of the last event
        already seen. Reconnects after a lost connection, without repeating events.

        Raises NotFound, ConnectionFailed, UnexpectedAnswer.
        """
        stream, retries = EventStream(after), Retries(self._session.max_retries)
        while not stream.ended:
            try:
                async with self._session.open("/v1/finetunes/{id}/events", stream.headers(), id=id) as response:
                    if response.status_code == httpx.codes.NO_CONTENT:
                        return  # the fine-tune has ended, and no events follow
                    try:
                        async for sent in EventSource(response).aiter_sse():
                            if (event := stream.read(sent)) is not None:
                                yield event
                    finally:
                        if response.num_bytes_downloaded:  # data came, if only a heartbeat: count retries from 0 again
                            retries = Retries(self._session.max_retries)
                lost: httpx.TransportError | ApiError = httpx.RemoteProtocolError(
                    "the stream ended early", request=response.request
                )
            except SSEError as error:
                raise UnexpectedAnswer(str(response.url), str(error)) from error
            except (httpx.TransportError, ApiError) as error:
                lost = error
            if not stream.ended:
                await sleep(retries.after_loss(lost))

    async def sample(self, id: str, event_id: int) -> bytes:
        """Returns the sample image of a `Sample` event, as a PNG."""
        path = "/v1/finetunes/{id}/samples/{event_id}"
        return (await self._session.send("GET", path, id=id, event_id=event_id)).content
