"""The way in."""

from typing import Self, Unpack

import httpx

from difffit import __version__
from difffit._async.adapters import AsyncAdapters
from difffit._async.admin import AsyncAdmin
from difffit._async.datasets import AsyncDatasets
from difffit._async.deletions import AsyncDeletions
from difffit._async.domains import AsyncDomains
from difffit._async.finetunes import AsyncFinetunes
from difffit._async.generations import AsyncGenerations
from difffit._async.session import AsyncSession, parsed
from difffit._async.webhooks import AsyncWebhooks
from difffit.errors import NotConfigured
from difffit.models import OwnKey, Readiness, Usage
from difffit.pictures import Picture
from difffit.requests import GenerationSettings
from difffit.settings import resolve

TIMEOUT = httpx.Timeout(60.0, connect=10.0)
"""Seconds without a byte. The server sends one at least every 15 s on a stream of events."""
_FIRST_WAIT = 10


class AsyncClient:
    """A DiffFit server and one API key.

    What is left out comes from the environment, `DIFFFIT_URL`, `DIFFFIT_API_KEY` and `DIFFFIT_PROFILE`, or from what
    `difffit login` has stored. Requests that the network loses, and those that the server asks to send later, are
    repeated up to `max_retries` times; an idempotency key makes sure that nothing happens twice. `http` brings an httpx
    client of your own, for proxies or certificates; it is closed with this one.

    Raises NotConfigured when the settings cannot be read. What each call raises is in `difffit.errors`.
    """

    def __init__(
        self,
        url: str | None = None,
        api_key: str | None = None,
        *,
        profile: str | None = None,
        max_retries: int = 5,
        http: httpx.AsyncClient | None = None,
    ) -> None:
        try:
            settings = resolve(url, api_key, profile)
        except ValueError as error:
            raise NotConfigured(str(error)) from error
        self._http = http or httpx.AsyncClient(timeout=TIMEOUT)
        self._http.base_url = settings.url
        self._http.headers["User-Agent"] = f"difffit-python/{__version__}"
        session = AsyncSession(settings, self._http, max_retries)
        self._session = session
        self.domains = AsyncDomains(session)
        self.datasets = AsyncDatasets(session)
        self.finetunes = AsyncFinetunes(session)
        self.adapters = AsyncAdapters(session)
        self.generations = AsyncGenerations(session)
        self.deletions = AsyncDeletions(session)
        self.webhooks = AsyncWebhooks(session)
        self.admin = AsyncAdmin(session)

    @property
    def url(self) -> str:
        return self._session.settings.url

    async def generate(self, domain_id: str, **settings: Unpack[GenerationSettings]) -> tuple[Picture, ...]:
        """Draws images of one class, `class_name` or `class_id`, and waits for them.

        Raises NoActiveAdapter, BaseMismatch, InvalidRequest, TooManyRequests, JobFailed.
        """
        started = await self.generations.create(domain_id, prefer_wait=_FIRST_WAIT, **settings)
        return await self.generations.pictures(await self.generations.wait(started.id))

    async def usage(self) -> Usage:
        """What you used: images, row-steps, training seconds, stored bytes."""
        return await self._session.call("GET", "/v1/usage", Usage)

    async def key(self) -> OwnKey:
        """The API key that this client sends: whose it is, and what it may do."""
        return await self._session.call("GET", "/v1/key", OwnKey)

    async def ready(self) -> Readiness:
        """Whether the server has all it needs, and how many workers live. No key needed. Raises ServerError."""
        return parsed(await self._session.probe("/readyz"), Readiness)

    async def close(self) -> None:
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
