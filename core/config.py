"""Settings: environment variables with the prefix DIFFFIT_, or a `.env` file. Nothing else reads the environment."""

import ipaddress
import logging
from functools import lru_cache
from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, SettingsConfigDict

logger = logging.getLogger(__name__)
_PREFIX = "DIFFFIT_"
_SECRET_CHARACTERS = 32
UPLOAD_FORM_BYTES = 2**20
"""What the parts of a form may take next to the file that it sends."""


class Settings(BaseSettings):
    """The defaults run the service on one machine: SQLite, a folder, a broker in a folder, the bundled base.

    An empty variable counts as one that is not set.
    """

    model_config = SettingsConfigDict(
        env_prefix=_PREFIX,
        env_file=".env",
        env_ignore_empty=True,
        env_parse_none_str="none",
        extra="ignore",
        hide_input_in_errors=True,
    )

    data_dir: Path = Path("difffit-data")
    """Holds what the embedded default needs: database, objects, broker, the signing secret."""
    database_url: str = ""
    worker_database_url: str = ""
    """The workers' own role on PostgreSQL; `database_url` when left out."""
    owner_database_url: str = ""
    """The role that owns the tables on PostgreSQL, for migrations; `database_url` when left out."""
    broker_url: str = ""
    storage_url: str = ""
    s3_endpoint_url: str | None = None
    s3_region: str = "us-east-1"
    s3_public_endpoint_url: str | None = None
    """Where clients reach the store, to put the parts of large uploads there. Without it, and with an endpoint of our
    own, parts go through the API."""

    base_model: str = "mini"
    """`mini`, a local folder, an original `.pt` file, or a hub id such as `facebook/DiT-XL-2-256`."""
    autoencoder: str | None = None
    """Folder or hub id of the autoencoder, for a base that comes without one (`.pt`)."""
    device: str = "auto"
    torch_threads: int = 0
    """Threads of the CPU device; 0 leaves torch's choice."""

    host: str = "127.0.0.1"
    port: int = 8000
    public_url: str | None = None
    """How clients reach the API, for absolute image URLs; by default what the request says."""
    dashboard: bool = True
    """Pages for people at `/dashboard`, served by the API's process."""
    admin_key: SecretStr | None = None
    """The first administrator's key, at least 32 characters. Without it one is made and printed at the first start."""
    url_secret: SecretStr | None = None
    """Signs image URLs, at least 32 characters. Without it one is made and kept in `data_dir`, which only suits a
    single API process."""
    image_url_seconds: int = 3600

    keep_image_days: int | None = Field(default=None, ge=1)
    """Images of a generation, from its end on. `none`, here and in the settings that follow, keeps for ever. Images are
    what tenants come for: none goes without an operator's choice."""
    keep_generation_days: int | None = Field(default=None, ge=1)
    """Rows of ended generations, with their images."""
    keep_preview_days: int | None = Field(default=7, ge=1)
    keep_sample_days: int | None = Field(default=90, ge=1)
    """Images that a fine-tune drew on its way, from its end on."""
    keep_event_days: int | None = Field(default=30, ge=1)
    """Every progress event of a fine-tune, from its end on. Afterwards about 200 points of its loss curve stay."""
    keep_checkpoint_days: int | None = Field(default=1, ge=1)
    """The last checkpoint of a fine-tune that has ended. One that a newer one replaced goes an hour later."""
    keep_rejected_days: int | None = Field(default=7, ge=1)
    """Archives of data sets that were rejected; their reports stay."""
    keep_delivery_days: int | None = Field(default=30, ge=1)
    """Deliveries of webhooks."""
    keep_audit_days: int | None = Field(default=365, ge=30)
    keep_receipt_days: int | None = Field(default=365, ge=1)
    """Receipts of deletions, from the day on which all was gone."""
    keep_usage_days: int | None = Field(default=None, ge=31)
    """What tenants used, day by day: one row each. Bills rest on it, and totals count it from the beginning."""
    trusted_proxies: str = ""
    """Addresses and networks of the proxies in front of the API, separated by commas. Only their `X-Forwarded-For` and
    `X-Forwarded-Proto` are believed, and only the last hop that is not one of them counts as the client."""
    max_connections: int = Field(default=1000, ge=10)
    """Connections of one API process. At the limit, the one that has waited longest without a request is closed."""
    max_address_connections: int = Field(default=250, ge=1)
    """Those of one address that is no trusted proxy; more are closed at once."""
    request_head_seconds: float = Field(default=10, gt=0)
    """Time that a client may take from its connection, or the last answer, to the end of a request's headers."""
    request_body_seconds: float = Field(default=30, gt=0)
    """Time that a body may take, and one second more for each 16 KiB that have come."""
    response_stall_seconds: float = Field(default=60, gt=0)
    """Time after which a client that takes nothing of its response is cut off."""
    max_transfers: int = Field(default=16, ge=1)
    """Uploads, and downloads of adapters, that one API process has on their way at once; more are answered with 503."""
    max_tenant_transfers: int = Field(default=8, ge=1)
    """Those of one tenant; more are answered with 429."""
    max_spooled_bytes: int = 1792 * 2**20
    """Bytes of them that one API process keeps on its disk at once, half of them for one tenant."""
    max_waits: int = Field(default=400, ge=0)
    """Requests with `Prefer: wait` that one API process lets wait; more are answered at once."""
    max_tenant_waits: int = Field(default=100, ge=0)
    """Those of one tenant."""
    max_event_streams: int = Field(default=200, ge=1)
    """Event streams that one API process holds open; more are answered with 503."""
    max_tenant_event_streams: int = Field(default=20, ge=1)
    """Those of one tenant; more are answered with 429."""

    lease_seconds: float = 60
    heartbeat_seconds: float = 10
    reaper_seconds: float = 15
    max_attempts: int = 3
    device_seconds: float = 60
    """A worker whose device computes nothing for longer reports that it is not healthy, and ends after five times in a
    row."""
    orphan_seconds: float = 86_400
    """How old an object must be that no row speaks of, to be removed; longer than anything stays without its row."""

    max_upload_bytes: int = 512 * 2**20
    """In one request."""
    max_multipart_bytes: int = 4 * 2**30
    """In parts."""
    upload_part_bytes: int = Field(default=16 * 2**20, ge=5 * 2**20)
    """Of all parts but the last; S3 takes none smaller. Of very large uploads they are larger."""
    upload_seconds: int = 86_400
    """After which an upload that was not completed is removed with its parts."""
    upload_url_seconds: int = 3600
    """How long the URL of a part holds."""
    max_archive_members: int = 20_000
    max_image_bytes: int = 32 * 2**20
    max_inflated_bytes: int = 4 * 2**30
    max_image_pixels: int = 50_000_000
    max_archive_pixels: int = 20 * 10**9
    """Pixels of all images of one zip; a small zip may have fewer, see docs/operations.md."""
    max_classes: int = 1000
    max_adapter_bytes: int = 32 * 2**20

    max_batch_rows: int | None = Field(default=None, ge=2)
    """Rows of one forward; a guided image takes two. None follows the device: 32, 64 or 128 by a GPU's memory, and 8 on
    a CPU, where more gain nothing and no more are taken."""
    max_waiting_images: int = 2_000
    """Images that a worker takes in before it leaves rows to others."""
    max_queued_generations: int = 500
    """Of one tenant; more are answered with 429. So are the next three; the last is answered with 403. An
    administrator can give a tenant numbers of its own."""
    max_active_finetunes: int = 100
    """Queued and running ones."""
    max_validating_datasets: int = 100
    max_images_per_day: int | None = 100_000
    """In UTC; `none` for no limit."""
    max_stored_bytes: int | None = 100 * 2**30
    """Archives, adapters, checkpoints, images, previews and samples of one tenant; `none` for no limit."""
    max_requests_per_minute: int | None = 12_000
    """From one tenant, counted in Redis for all processes of the API, and in each alone without; `none` for no
    limit."""
    max_wrong_keys_per_minute: int = 100
    """From one address."""
    max_webhooks: int | None = 20
    """Of one tenant; one more is answered with 403."""
    webhooks_allow_private: bool = False
    """For development and tests: webhooks by http, and to addresses of the service's own network."""
    webhook_threads: int = Field(default=8, ge=0)
    """Deliveries that a worker has on their way at once; 0 in a worker that may not reach the internet."""
    adapter_slots: int = Field(default=1024, ge=2)
    """Adapters that lie on the device at once; at least `max_batch_rows`."""
    compile: str | None = None
    """Removed; named here so that a value is reported, not ignored in silence."""
    exact: bool = False
    """Computes every batch at one size, so that on a GPU too an image is the same bit for bit whatever its
    neighbours."""
    host_cache_bytes: int = 2 * 2**30
    training_share: float = Field(default=0.2, ge=0, le=1)
    """Part of the device's time that fine-tunes get at least while images are waiting."""
    micro_batch_size: int | None = Field(default=None, ge=1)
    """Images of a fine-tune's batch that pass at once, at most; fewer need less memory, and sums round differently."""
    training_memory_bytes: int | None = Field(default=None, ge=1)
    """Memory that a training step may take; a batch passes in parts that fit. None is half of what is free: of the
    device, or of the machine and the process' control group."""
    concurrent_finetunes: int = Field(default=8, ge=1)
    """On one worker, as the next two. Of several places of a queue a tenant gets all but one. Fine-tunes that run at
    once share their steps and the memory of a step; each keeps the latents of its images."""
    concurrent_datasets: int = Field(default=4, ge=1)
    worker_threads: int | None = Field(default=None, ge=1)
    """All its jobs at once: generations get what data sets and fine-tunes leave, one at least. None lets generations
    follow the device's batch: one for each of its rows, and 16 at least."""
    worker_queues: str = "datasets,finetune,generate"
    metrics_port: int = 0
    """Where a worker answers Prometheus, on `host`, whoever asks; 0 for nowhere."""
    api_metrics_port: int = 0
    """The same of the API. Its `/metrics` answers administrators' keys alone."""

    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    log_json: bool = False
    traces_endpoint: str = ""
    """Where an OpenTelemetry collector takes traces by OTLP over HTTP, as `http://collector:4318/v1/traces`; nowhere
    when empty."""
    traces_share: float = Field(default=1.0, ge=0, le=1)
    """Of the requests that came without a trace of their own."""

    @field_validator("admin_key", "url_secret")
    @classmethod
    def _long_secrets(cls, secret: SecretStr | None) -> SecretStr | None:
        if secret is not None and len(secret.get_secret_value()) < _SECRET_CHARACTERS:
            raise ValueError(
                f"must have at least {_SECRET_CHARACTERS} characters, or be left empty. "
                "`openssl rand -hex 32` makes a good one"
            )
        return secret

    @field_validator("compile")
    @classmethod
    def _report_removed(cls, value: str | None) -> None:
        if value is not None:
            logger.warning("DIFFFIT_COMPILE has no effect: a GPU's steps are CUDA graphs without it. Remove it.")

    @field_validator("trusted_proxies")
    @classmethod
    def _networks(cls, proxies: str) -> str:
        """Each as a network, since uvicorn takes what it cannot parse for a host's name."""
        networks = (ipaddress.ip_network(one.strip(), strict=False) for one in proxies.split(",") if one.strip())
        return ",".join(map(str, networks))

    @model_validator(mode="after")
    def _room_for_two_uploads(self) -> "Settings":
        if self.max_spooled_bytes < 2 * (self.max_upload_bytes + UPLOAD_FORM_BYTES):
            raise ValueError("max_spooled_bytes must be at least twice max_upload_bytes, and 2 MiB more")
        return self

    @model_validator(mode="after")
    def _slots_for_every_row(self) -> "Settings":
        if self.max_batch_rows is not None and self.adapter_slots < self.max_batch_rows:
            raise ValueError("adapter_slots must be at least max_batch_rows: every row may have an adapter of its own")
        return self

    @model_validator(mode="after")
    def _embedded_defaults(self) -> "Settings":
        folder = self.data_dir.absolute()
        self.database_url = self.database_url or f"sqlite:///{folder / 'difffit.db'}"
        self.worker_database_url = self.worker_database_url or self.database_url
        self.owner_database_url = self.owner_database_url or self.database_url
        self.broker_url = self.broker_url or "filesystem://"
        self.storage_url = self.storage_url or f"file://{folder / 'objects'}"
        return self

    @model_validator(mode="after")
    def _one_database(self) -> "Settings":
        """Runs after the defaults are filled in."""
        urls = (self.database_url, self.worker_database_url, self.owner_database_url)
        if len({url.startswith("sqlite") for url in urls}) > 1:
            raise ValueError("database_url, worker_database_url and owner_database_url must lead to one database")
        return self

    @property
    def embedded(self) -> bool:
        """On SQLite: the service makes its own tables."""
        return self.database_url.startswith("sqlite")


@lru_cache
def get_settings() -> Settings:
    """For the edges: the API, the worker, migrations, command lines. Everything else is given what it needs.

    Raises ValueError with a sentence for each variable that cannot be used; values are not repeated.
    """
    try:
        return Settings()
    except ValidationError as error:
        raise ValueError(" ".join(map(_sentence, error.errors()))) from None


def _sentence(error: ErrorDetails) -> str:
    variable = "".join(f"{_PREFIX}{str(name).upper()}: " for name in error["loc"])
    return f"{variable}{error['msg'].removeprefix('Value error, ')}."
