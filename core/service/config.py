"""Settings: environment variables with the prefix DIFFFIT_, or a `.env` file. Nothing else reads the environment."""

import ipaddress
import logging
from functools import lru_cache
from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, SettingsConfigDict

from core.service.extras import how_to_install, is_installed

logger = logging.getLogger(__name__)
_PREFIX = "DIFFFIT_"
_SECRET_CHARACTERS = 32
UPLOAD_FORM_BYTES = 2**20
"""Bytes that an upload's form may have on top of the file that it sends."""


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
    """Folder of the embedded default: database, objects, broker, signing secret."""
    database_url: str = ""
    worker_database_url: str = ""
    """URL of the workers' own role on PostgreSQL. Empty means `database_url`."""
    owner_database_url: str = ""
    """URL of the role that owns the tables on PostgreSQL, for migrations. Empty means `database_url`."""
    broker_url: str = ""
    storage_url: str = ""
    s3_endpoint_url: str | None = None
    s3_region: str = "us-east-1"
    s3_public_endpoint_url: str | None = None
    """URL at which clients reach the store, to put the parts of large uploads there. Without it, and with an endpoint
    of our own, parts go through the API."""

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
    """URL at which clients reach the API, for absolute image URLs. None takes it from the request."""
    dashboard: bool = True
    """Pages for people at `/dashboard`, served by the API's process."""
    admin_key: SecretStr | None = None
    """Key of the first administrator, at least 32 characters. Without it one is made and printed at the first start."""
    url_secret: SecretStr | None = None
    """Secret that signs image URLs, at least 32 characters. Without it one is made and kept in `data_dir`, which suits
    only a single API process."""
    image_url_seconds: int = 3600

    keep_image_days: int | None = Field(default=None, ge=1)
    """Days to store images of a generation, counted from its end. `none`, here and in the following settings, means
    forever. Tenants rely on their images, so none is deleted unless an operator chooses so."""
    keep_generation_days: int | None = Field(default=None, ge=1)
    """Rows of ended generations, with their images."""
    keep_preview_days: int | None = Field(default=7, ge=1)
    keep_sample_days: int | None = Field(default=90, ge=1)
    """Sample images of a fine-tune, from its end on."""
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
    """Receipts of deletions, from the day on which the deletion was complete."""
    keep_usage_days: int | None = Field(default=None, ge=31)
    """Daily usage, one row per tenant and day. Bills rely on it, and totals count it from the beginning."""
    trusted_proxies: str = ""
    """Addresses and networks of the proxies in front of the API, separated by commas. Only their `X-Forwarded-For` and
    `X-Forwarded-Proto` are believed, and only the last hop that is not one of them counts as the client."""
    max_connections: int = Field(default=1000, ge=10)
    """Max connections of one API process. At the limit, the connection that has waited longest without a request is
    closed."""
    max_address_connections: int = Field(default=250, ge=1)
    """Max connections of one address that is not a trusted proxy. Further ones are closed at once."""
    request_head_seconds: float = Field(default=10, gt=0)
    """Time that a client may take from its connection, or the last answer, to the end of a request's headers."""
    request_body_seconds: float = Field(default=30, gt=0)
    """Time that a body may take, and one second more for each 16 KiB that have come."""
    response_stall_seconds: float = Field(default=60, gt=0)
    """Time after which a client that takes nothing of its response is cut off."""
    max_transfers: int = Field(default=16, ge=1)
    """Max concurrent uploads and adapter downloads of one API process. Further ones are answered with 503."""
    max_tenant_transfers: int = Field(default=8, ge=1)
    """Max concurrent transfers, as above, of one tenant, per API process. Further ones are answered with 429."""
    max_spooled_bytes: int = 1792 * 2**20
    """Max bytes of uploads and downloads that one API process keeps on its disk, half of them for one tenant."""
    max_waits: int = Field(default=400, ge=0)
    """Max requests with `Prefer: wait` that one API process lets wait. Further ones are answered at once."""
    max_tenant_waits: int = Field(default=100, ge=0)
    """Max waiting requests of one tenant, per API process. Further ones are answered at once."""
    max_event_streams: int = Field(default=200, ge=1)
    """Max event streams that one API process holds open. Further ones are answered with 503."""
    max_tenant_event_streams: int = Field(default=20, ge=1)
    """Max open event streams of one tenant, per API process. Further ones are answered with 429."""

    lease_seconds: float = 60
    heartbeat_seconds: float = 10
    reaper_seconds: float = 15
    max_attempts: int = 3
    device_seconds: float = 60
    """A worker whose device computes nothing for longer reports that it is not healthy, and ends after five times in a
    row."""
    orphan_seconds: float = 86_400
    """Min age of an object without a database row, before it is removed. Must be longer than any object waits for its
    row."""

    max_upload_bytes: int = 512 * 2**20
    """Max size of an upload in one request."""
    max_multipart_bytes: int = 4 * 2**30
    """Max size of an upload in parts."""
    upload_part_bytes: int = Field(default=16 * 2**20, ge=5 * 2**20)
    """Size of every part but the last; S3 accepts none smaller than 5 MiB. Very large uploads get larger parts."""
    upload_seconds: int = 86_400
    """Lifetime of an upload. One that is not completed by then is removed with its parts."""
    upload_url_seconds: int = 3600
    """Lifetime of a part's URL."""
    max_archive_members: int = 20_000
    max_image_bytes: int = 32 * 2**20
    max_inflated_bytes: int = 4 * 2**30
    max_image_pixels: int = 50_000_000
    max_archive_pixels: int = 20 * 10**9
    """Max pixels of all images of one zip. A small zip may have fewer, see docs/operations.md."""
    max_classes: int = 1000
    max_adapter_bytes: int = 32 * 2**20

    max_batch_rows: int | None = Field(default=None, ge=2)
    """Max rows of one forward; a guided image takes two. None follows the device: 32, 64 or 128 by a GPU's memory, and
    8 on a CPU, where more rows gain nothing and are never taken."""
    max_waiting_images: int = 2_000
    """Max images that a worker takes in before it leaves further rows to other workers."""
    max_queued_generations: int = 500
    """Max queued generations of one tenant. Requests above this limit, or one of the next three, are answered with 429;
    above `max_stored_bytes` with 403. An administrator can give a tenant its own limits."""
    max_active_finetunes: int = 100
    """Max queued and running fine-tunes of one tenant."""
    max_validating_datasets: int = 100
    max_images_per_day: int | None = 100_000
    """Max images of one tenant per day in UTC; `none` for no limit."""
    max_stored_bytes: int | None = 100 * 2**30
    """Max bytes of one tenant: archives, adapters, checkpoints, images, previews and samples; `none` for no limit."""
    max_requests_per_minute: int | None = 12_000
    """Max requests of one tenant, counted in Redis for all API processes, or in each process alone without Redis;
    `none` for no limit."""
    max_wrong_keys_per_minute: int = 100
    """Max requests with a wrong key from one address."""
    max_webhooks: int | None = 20
    """Max webhooks of one tenant. Another one is answered with 403."""
    webhooks_allow_private: bool = False
    """Allows webhooks by http, and to addresses of the service's own network. For development and tests only."""
    webhook_threads: int = Field(default=8, ge=0)
    """Max concurrent deliveries of a worker; 0 in a worker that may not reach the internet."""
    adapter_slots: int = Field(default=1024, ge=2)
    """Max adapters on the device at once; at least `max_batch_rows`."""
    compile: str | None = None
    """Removed; named here so that a value is reported, not ignored in silence."""
    exact: bool = False
    """Computes every batch at one size, so that on a GPU too an image is the same bit for bit whatever its
    neighbours."""
    host_cache_bytes: int = 2 * 2**30
    training_share: float = Field(default=0.2, ge=0, le=1)
    """Min fraction of the device's time that fine-tunes get while images are waiting."""
    micro_batch_size: int | None = Field(default=None, ge=1)
    """Max images of a fine-tune's batch that pass at once. Fewer need less memory, and their sums round differently."""
    training_memory_bytes: int | None = Field(default=None, ge=1)
    """Memory limit of a training step; a batch passes in parts that fit. None takes half of what is free: of the
    device, or of the machine and the process' control group."""
    concurrent_finetunes: int = Field(default=8, ge=1)
    """Max concurrent fine-tunes of one worker; the next two settings count per worker too. One tenant gets all of a
    queue's slots but one, if there are several. Concurrent fine-tunes share their steps and the memory of a step; each
    keeps the latents of its own images."""
    concurrent_datasets: int = Field(default=4, ge=1)
    worker_threads: int | None = Field(default=None, ge=1)
    """Max concurrent jobs of all kinds: generations get what data sets and fine-tunes leave, at least two. None lets
    generations follow the device's batch: one for each of its rows, and at least 16."""
    worker_queues: str = "datasets,finetune,generate"
    metrics_port: int = 0
    """Port on `host` where a worker answers Prometheus, without a key; 0 for none."""
    api_metrics_port: int = 0
    """Port where the API answers Prometheus, likewise. Its `/metrics` answers only administrators' keys."""

    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    log_json: bool = False
    traces_endpoint: str = ""
    """URL of an OpenTelemetry collector that takes traces by OTLP over HTTP, such as `http://collector:4318/v1/traces`.
    Empty sends no traces."""
    traces_share: float = Field(default=1.0, ge=0, le=1)
    """Fraction of requests that are traced, among those without a trace of their own."""

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
        """Returns each address as a network, since uvicorn takes what it cannot parse for a host's name."""
        networks = (ipaddress.ip_network(proxy.strip(), strict=False) for proxy in proxies.split(",") if proxy.strip())
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
    def _clients_of_servers(self) -> "Settings":
        servers = {"database_url": "postgresql", "broker_url": "redis", "storage_url": "s3"}
        used = [name for name, scheme in servers.items() if getattr(self, name).startswith(scheme)]
        if used and not is_installed("servers"):
            raise ValueError(f"the packages for {' and '.join(used)} are not installed: {how_to_install('servers')}")
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
        """True on SQLite, where the service makes its own tables."""
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
