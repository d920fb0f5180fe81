"""Client calls for webhooks, with which the server sends events to a URL of yours."""

from collections.abc import Sequence
from typing import Any, Literal

from difffit._async.session import AsyncPages, AsyncSession, given
from difffit.models import Delivery, DeliveryDetail, DeliveryList, Webhook, WebhookIssued, WebhookList


class AsyncWebhooks:
    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def create(
        self, url: str, events: Sequence[str] | None = None, description: str | None = None
    ) -> WebhookIssued:
        """Creates a webhook for the given event types, or for all. Only the returned object contains `secret`, with
        which any Standard Webhooks library verifies the signatures of deliveries. Raises InvalidRequest, Forbidden."""
        body = given({"url": url, "events": events, "description": description})
        issued = await self._session.call("POST", "/v1/webhooks", WebhookIssued, body=body)
        return issued if issued.secret else await self.rotate(issued.id, overlap_seconds=0)

    def list(self, limit: int | None = None) -> AsyncPages[Webhook]:
        """Yields your webhooks, newest first, without their secrets."""
        return self._session.pages("/v1/webhooks", WebhookList, limit)

    async def get(self, id: str) -> Webhook:
        return await self._session.call("GET", "/v1/webhooks/{id}", Webhook, id=id)

    async def update(
        self,
        id: str,
        *,
        url: str | None = None,
        events: Sequence[str] | Literal["all"] | None = None,
        description: str | None = None,
        enabled: bool | None = None,
    ) -> Webhook:
        """Changes the webhook's fields that are given (not None). With `events="all"`, the webhook receives events of
        all types."""
        body: dict[str, Any] = given({"url": url, "events": events, "description": description, "enabled": enabled})
        if events == "all":
            body["events"] = None
        return await self._session.call("PATCH", "/v1/webhooks/{id}", Webhook, body=body, id=id)

    async def delete(self, id: str) -> None:
        """Deletes the webhook and its deliveries."""
        await self._session.send("DELETE", "/v1/webhooks/{id}", id=id)

    async def rotate(self, id: str, *, overlap_seconds: int | None = None) -> WebhookIssued:
        """Gives a webhook a new signing secret, which only the returned object contains. Deliveries are also signed
        with the old secret for `overlap_seconds`. If the server's response is lost, replaces the new secret once more,
        without overlap."""
        body = given({"overlap_seconds": overlap_seconds})
        issued = await self._session.call("POST", "/v1/webhooks/{id}/rotate", WebhookIssued, body=body, id=id)
        while issued.secret is None:
            body = {"overlap_seconds": 0}
            issued = await self._session.call("POST", "/v1/webhooks/{id}/rotate", WebhookIssued, body=body, id=id)
        return issued

    async def test(self, id: str) -> DeliveryDetail:
        """Sends a test event of type `webhook.test` to the webhook's URL. Raises Conflict if the webhook is
        disabled."""
        return await self._session.call("POST", "/v1/webhooks/{id}/test", DeliveryDetail, id=id)

    def deliveries(
        self, id: str, limit: int | None = None, *, status: Literal["pending", "succeeded", "failed"] | None = None
    ) -> AsyncPages[Delivery]:
        """Yields the webhook's deliveries of the last 30 days, newest first, each with all its attempts."""
        return self._session.pages("/v1/webhooks/{id}/deliveries", DeliveryList, limit, {"status": status}, id=id)

    async def delivery(self, id: str, delivery_id: str) -> DeliveryDetail:
        """Returns one delivery with its payload, the JSON body that is sent."""
        path = "/v1/webhooks/{id}/deliveries/{delivery_id}"
        return await self._session.call("GET", path, DeliveryDetail, id=id, delivery_id=delivery_id)

    async def redeliver(self, id: str, delivery_id: str) -> DeliveryDetail:
        """Sends the event of a delivery again, whether or not the delivery succeeded. Raises Conflict if the webhook is
        disabled."""
        path = "/v1/webhooks/{id}/deliveries/{delivery_id}/redeliver"
        return await self._session.call("POST", path, DeliveryDetail, id=id, delivery_id=delivery_id)
