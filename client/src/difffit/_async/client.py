"""Client class, the entry point of the SDK."""

from datetime import date
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
from difffit._async.images import AsyncImages
from difffit._async.session import AsyncSession, parsed
from difffit._async.webhooks import AsyncWebhooks
from difffit.errors import NotConfigured
from difffit.filters import query
from difffit.models import Base, OwnKey, Readiness, Usage
from difffit.pictures import Picture
from difffit.requests import GenerationSettings
from difffit.settings import resolve

TIMEOUT = httpx.Timeout(60.0, connect=10.0)
"""Maximum number of seconds without receiving data. Event streams stay below it, because the server sends a heartbeat
at least every 15 s."""
_FIRST_WAIT = 10


class AsyncClient:
    """Client of a DiffFit server, with one API key.

    Omitted arguments come from the environment (`DIFFFIT_URL`, `DIFFFIT_API_KEY`, `DIFFFIT_PROFILE`) or from the file
    that `difffit login` writes. A request is retried up to `max_retries` times when the connection fails or the server
    asks for a retry; an idempotency key prevents the server from carrying it out twice. `timeout` is the maximum number
    of seconds without receiving data, 60 by default. Pass your own httpx client as
    `http` to set proxies or certificates, or to call an application in this process; `close` closes it too.

    Raises NotConfigured when the settings cannot be read. All exceptions are in `difffit.errors`.
    """

    def __init__(
        self,
        url: str | None = None,
        api_key: str | None = None,
        *,
        profile: str | None = None,
        max_retries: int = 5,
        timeout: float | None = None,
        http: httpx.AsyncClient | None = None,
    ) -> None:
        try:
            settings = resolve(url, api_key, profile)
        except ValueError as error:
            raise NotConfigured(str(error)) from error
        self._http = http or httpx.AsyncClient(timeout=TIMEOUT if timeout is None else timeout)
        self._http.base_url = settings.url
        self._http.headers["User-Agent"] = f"difffit-python/{__version__}"
        session = AsyncSession(settings, self._http, max_retries)
        self._session = session
        self.domains = AsyncDomains(session)
        self.datasets = AsyncDatasets(session)
        self.finetunes = AsyncFinetunes(session)
        self.adapters = AsyncAdapters(session)
        self.generations = AsyncGenerations(session)
        self.images = AsyncImages(session)
        self.deletions = AsyncDeletions(session)
        self.webhooks = AsyncWebhooks(session)
        self.admin = AsyncAdmin(session)

    @property
    def url(self) -> str:
        return self._session.settings.url

    async def generate(self, domain_id: str, **settings: Unpack[GenerationSettings]) -> tuple[Picture, ...]:
        """Generates images of one class, given by `class_name` or `class_id`, and returns them when all are finished.

        Raises NoActiveAdapter, BaseMismatch, InvalidRequest, TooManyRequests, JobFailed.
        """
        started = await self.generations.create(domain_id, prefer_wait=_FIRST_WAIT, **settings)
        return await self.generations.pictures(await self.generations.wait(started.id))

    async def base(self) -> Base:
        """Returns the server's base model with its classes, and the defaults and limits of settings. Raises ServerError
        until a worker has loaded the base model."""
        return await self._session.call("GET", "/v1/base", Base)

    async def usage(self, *, from_day: date | None = None, to_day: date | None = None) -> Usage:
        """Returns the usage of your tenant: generated images, model evaluations, training seconds, stored bytes. Its
        `days` are those from `from_day` to `to_day` in UTC, both included, by default the last 30 days."""
        days = query({"from_day": from_day, "to_day": to_day})
        return await self._session.call("GET", "/v1/usage", Usage, query=days)

    async def key(self) -> OwnKey:
        """Returns the name, tenant and scopes of the API key that this client sends."""
        return await self._session.call("GET", "/v1/key", OwnKey)

    async def ready(self) -> Readiness:
        """Returns whether the server is ready, and its number of live workers. Needs no API key. Raises
        ConnectionFailed, UnexpectedAnswer."""
        return parsed(await self._session.probe("/readyz"), Readiness)

    async def close(self) -> None:
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
