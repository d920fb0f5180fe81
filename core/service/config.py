"""Settings, read from environment variables with the prefix DIFFFIT_ or from a `.env` file. No other module reads the
environment."""

import difflib
import ipaddress
import logging
from functools import lru_cache
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, ValidationError, ValidationInfo, field_validator, model_validator
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, DotEnvSettingsSource, EnvSettingsSource, SettingsConfigDict

from core.service.extras import how_to_install, is_installed

logger = logging.getLogger(__name__)
_PREFIX = "DIFFFIT_"
_CLIENTS = {"api_key", "config", "profile", "url"}
"""Variables with the prefix that the `difffit` command reads."""
_SECRET_CHARACTERS = 32
QUEUES = ("datasets", "finetune", "generate")
"""Names of the queues, one for each kind of job."""
UPLOAD_FORM_BYTES = 2**20
"""Max bytes of an upload's multipart form in addition to the uploaded file."""


class Settings(BaseSettings):
    """Settings of the API and the workers. With the defaults, the service runs on one machine, with SQLite, folders for
    objects and broker messages, and the bundled base model.

    An empty environment variable counts as not set.
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
    """Folder for what the default settings keep on this machine: database, objects, broker messages, signing secret."""
    database_url: str = ""
    """URL of the database, such as `postgresql://difffit_api:PASSWORD@HOST/difffit`. Empty means a SQLite file in
    `data_dir`."""
    worker_database_url: str = ""
    """Database URL with the workers' own role on PostgreSQL. Empty means `database_url`."""
    owner_database_url: str = ""
    """Database URL with the role that owns the tables on PostgreSQL, for migrations and backups. Empty means
    `database_url`."""
    broker_url: str = ""
    """URL of the message broker, such as `redis://HOST:6379/0`. Empty means a folder in `data_dir`."""
    storage_url: str = ""
    """Object store: `s3://BUCKET/PREFIX`, or a folder, `file:///PATH`. Empty means a folder in `data_dir`. boto3
    finds the credentials, for example in `AWS_ACCESS_KEY_ID` and `AWS_SECRET_ACCESS_KEY`."""
    s3_endpoint_url: str | None = None
    """URL of an S3-compatible store. None means Amazon S3."""
    s3_region: str = "us-east-1"
    """Region of the S3 bucket; boto3's own variable `AWS_REGION` is not read."""
    s3_public_endpoint_url: str | None = None
    """URL at which clients reach the S3 store, to upload the parts of large files directly. If it is not set but
    `s3_endpoint_url` is, clients send the parts to the API."""

    base_model: str = "mini"
    """Base model: `mini`, a local folder, an original DiT `.pt` file, or a Hugging Face hub id such as
    `facebook/DiT-XL-2-256`."""
    autoencoder: str | None = None
    """Folder or hub id of the autoencoder, for a base model that comes without one (a `.pt` file)."""
    device: str = "auto"
    """Device of a worker's base model: `cpu`, `cuda`, `cuda:1`, or `auto` for a GPU if there is one."""
    torch_threads: int = 0
    """Number of torch's CPU threads; 0 leaves torch's default."""

    host: str = "127.0.0.1"
    """Address at which the API and the metrics' ports listen."""
    port: int = 8000
    """Port of the API."""
    public_url: str | None = None
    """URL at which clients reach the API, for absolute image URLs. None means the URL of each request."""
    cors_origins: str = ""
    """Origins of web pages that may call the API from a browser, such as `https://app.example.com`, separated by
    commas; `*` for all. Empty means none."""
    dashboard: bool = True
    """Whether the API process also serves the dashboard's web pages at `/dashboard`."""
    admin_key: SecretStr | None = None
    """API key of the first administrator, at least 32 characters. If it is not set, the first start creates and prints
    one."""
    url_secret: SecretStr | None = None
    """Secret that signs image URLs, at least 32 characters. If it is not set, one is created and stored in `data_dir`,
    which suffices only for a single API process."""
    image_url_seconds: int = 3600
    """Lifetime of an image's signed URL."""

    keep_image_days: int | None = Field(default=None, ge=1)
    """Days to keep the images of a generation, from the generation's end on. `none` means forever, here and in the
    other `keep_…` settings; it is the default here, since tenants rely on their images."""
    expire_favourites: bool = False
    """Whether favourites are deleted with other images after `keep_image_days`."""
    keep_generation_days: int | None = Field(default=None, ge=1)
    """Days to keep the database rows of ended generations; their images are deleted with them."""
    keep_preview_days: int | None = Field(default=7, ge=1)
    """Days to keep the previews of a generation, from the generation's end on."""
    keep_sample_days: int | None = Field(default=90, ge=1)
    """Days to keep the sample images of a fine-tune, from the fine-tune's end on."""
    keep_event_days: int | None = Field(default=30, ge=1)
    """Days to keep all progress events of a fine-tune, from the fine-tune's end on. Later, about 200 points of the loss
    curve are kept."""
    keep_checkpoint_days: int | None = Field(default=1, ge=1)
    """Days to keep the last two checkpoints of a fine-tune, from the fine-tune's end on. Any earlier checkpoint is
    deleted an hour after two newer ones exist."""
    keep_rejected_days: int | None = Field(default=7, ge=1)
    """Days to keep the archives of rejected data sets; their reports are kept longer."""
    keep_delivery_days: int | None = Field(default=30, ge=1)
    """Days to keep the rows of webhook deliveries."""
    keep_audit_days: int | None = Field(default=365, ge=30)
    """Days to keep the entries of the audit log."""
    keep_receipt_days: int | None = Field(default=365, ge=1)
    """Days to keep the receipts of domain and tenant deletions, from the completion of the deletion on."""
    keep_usage_days: int | None = Field(default=None, ge=31)
    """Days to keep the rows of daily usage per tenant. The default is forever, since bills rely on these rows, and a
    tenant's total usage is their sum."""
    trusted_proxies: str = ""
    """Addresses and networks of the proxies in front of the API, separated by commas. `X-Forwarded-For` and
    `X-Forwarded-Proto` are trusted only from these proxies. The last address in `X-Forwarded-For` that is not one of
    these proxies counts as the client's."""
    max_connections: int = Field(default=1000, ge=10)
    """Max connections of one API process. At the limit, the connection that has been idle longest is closed."""
    max_address_connections: int = Field(default=250, ge=1)
    """Max connections of one client address to one API process; trusted proxies have no such limit. Further connections
    are closed at once."""
    request_head_seconds: float = Field(default=10, gt=0)
    """Max time from the start of a connection, or from the previous response on it, to the end of a request's headers.
    A slower client is disconnected."""
    request_body_seconds: float = Field(default=30, gt=0)
    """Max time for receiving a request's body, plus one second for each 16 KiB already received."""
    response_stall_seconds: float = Field(default=60, gt=0)
    """Time after which a client that reads nothing of its response is disconnected."""
    max_transfers: int = Field(default=16, ge=1)
    """Max concurrent uploads and adapter downloads of one API process. Further ones are answered with 503."""
    max_tenant_transfers: int = Field(default=8, ge=1)
    """Max concurrent uploads and adapter downloads of one tenant, per API process. Further ones are answered with
    429."""
    max_spooled_bytes: int = 1792 * 2**20
    """Max bytes of uploads and downloads that one API process buffers on its disk. One tenant may use half of them."""
    max_waits: int = Field(default=400, ge=0)
    """Max requests with `Prefer: wait` that wait in one API process. Further ones are answered at once, without
    waiting."""
    max_tenant_waits: int = Field(default=100, ge=0)
    """Max waiting requests of one tenant, per API process. Further ones are answered at once, without waiting."""
    max_event_streams: int = Field(default=200, ge=1)
    """Max open event streams of one API process. Further ones are answered with 503."""
    max_tenant_event_streams: int = Field(default=20, ge=1)
    """Max open event streams of one tenant, per API process. Further ones are answered with 429."""

    lease_seconds: float = 60
    """Time after which another worker takes over a job whose worker no longer responds."""
    heartbeat_seconds: float = 10
    """Interval at which a worker renews its leases and reports its state; it must be much shorter than
    `lease_seconds`."""
    reaper_seconds: float = 15
    """Interval at which a worker looks for jobs of lost workers, and for other work that is due."""
    max_attempts: int = 3
    """Attempts after which a job fails that crashed every worker on which it ran alone, or whose results the store or
    the database rejected each time."""
    device_seconds: float = 60
    """Time limit for the device's answer to a worker's check. If the device does not answer in time, the worker reports
    itself as unhealthy; after five such checks in a row it ends."""
    orphan_seconds: float = 86_400
    """Min age at which an object without a database row is deleted. It must be longer than any object may be stored
    before its row is written."""

    max_upload_bytes: int = 512 * 2**20
    """Max size of an upload in one request."""
    max_multipart_bytes: int = 4 * 2**30
    """Max size of an upload in parts."""
    upload_part_bytes: int = Field(default=16 * 2**20, ge=5 * 2**20)
    """Size of every part of an upload but the last, which may be smaller. At least 5 MiB, which S3 requires. Very large
    uploads get larger parts."""
    upload_seconds: int = 86_400
    """Lifetime of an upload in parts. If the upload is not completed in this time, its parts are deleted."""
    upload_url_seconds: int = 3600
    """Lifetime of the signed URL for uploading one part."""
    max_archive_members: int = 20_000
    """Max files of a data set."""
    max_image_bytes: int = 32 * 2**20
    """Max size of one image's file in a data set."""
    max_inflated_bytes: int = 4 * 2**30
    """Max size of all files of a zip together, uncompressed."""
    max_image_pixels: int = 50_000_000
    """Max pixels of one image in a data set."""
    max_archive_pixels: int = 20 * 10**9
    """Max pixels of all images of one zip together. A small zip has a lower limit: see docs/operations.md."""
    max_classes: int = 1000
    """Max classes of a data set."""
    max_adapter_bytes: int = 32 * 2**20
    """Max size of an uploaded adapter."""
    dataset_import_hosts: str = ""
    """Hosts from which tenants may import data sets, such as `images.example.com,*.s3.amazonaws.com`, separated by
    commas; `*` for all. Empty means that imports are refused."""
    dataset_imports_allow_private: bool = False
    """Allows imports with http, and from addresses in private networks. The hosts must be allowed nevertheless."""
    dataset_import_seconds: float = Field(default=3600, gt=0)
    """Max time for fetching the images of one import."""

    max_batch_rows: int | None = Field(default=None, ge=2)
    """Max batch rows of one forward pass; an image with classifier-free guidance takes two rows. None means 32, 64 or
    128 by the GPU's memory, or 8 on a CPU. A CPU never takes more than 8, since larger batches are no faster there."""
    max_waiting_images: int = 2_000
    """Max waiting and running images of one worker, which leaves further generations in the queue. One tenant gets at
    most about a third."""
    adapter_slots: int = Field(default=1024, ge=2)
    """Max adapters in device memory at the same time; at least `max_batch_rows`."""
    compile: str | None = None
    """Removed setting. It is still declared so that a value logs a warning instead of being ignored silently."""
    exact: bool = False
    """Pads every batch to one fixed size, so that on a GPU, too, an image is bit-identical whichever other images share
    its batch."""
    fp8: bool = False
    """Generates images with most matrix products in fp8, on NVIDIA GPUs of compute capability 8.9 or higher. Images
    differ in details from those without it, so set it on all workers or on none. Training is not affected."""
    host_cache_bytes: int = 2 * 2**30
    """Memory in which a worker keeps adapters that are not in device memory."""
    training_share: float = Field(default=0.2, ge=0, le=1)
    """Min fraction of the device's time that fine-tunes get while generations also need the device."""
    micro_batch_size: int | None = Field(default=None, ge=1)
    """Max images of a fine-tune's batch in one forward and backward pass; gradients are accumulated over the passes. A
    smaller number needs less memory, and only changes the rounding of the gradients."""
    training_memory_bytes: int | None = Field(default=None, ge=1)
    """Memory limit of a training step. A batch that needs more is split into several forward and backward passes. None
    means half of the free memory: of the GPU, or on a CPU of the machine or the process' control group. If not even one
    image fits, the fine-tune fails with `out_of_memory`."""
    concurrent_finetunes: int = Field(default=8, ge=1)
    """Max concurrent fine-tunes of one worker. If the number is above 1, one tenant may have all but one of them, so
    that other tenants need not wait; the same holds for data sets and generations. Concurrent fine-tunes train in
    common batches, within the memory limit of one training step; each also keeps its images' latents in memory."""
    concurrent_datasets: int = Field(default=4, ge=1)
    """Max concurrent data set checks of one worker."""

    max_queued_generations: int = 500
    """Max queued generations of one tenant. A request that would exceed this limit or one of the next three is answered
    with 429. An administrator can give a tenant its own limits instead of this and the following settings."""
    max_active_finetunes: int = 100
    """Max queued and running fine-tunes of one tenant."""
    max_validating_datasets: int = 100
    """Max data sets of one tenant that are being checked."""
    max_images_per_day: int | None = 100_000
    """Max images of one tenant per day in UTC. `none` means unlimited."""
    max_stored_bytes: int | None = 100 * 2**30
    """Max stored bytes of one tenant: archives, adapters, checkpoints, images, previews and samples. `none` means
    unlimited. A request that would exceed this limit is answered with 403."""
    max_requests_per_minute: int | None = 12_000
    """Rate limit of one tenant, counted in Redis for all API processes, or per process without Redis. `none` means
    unlimited."""
    max_wrong_keys_per_minute: int = 100
    """Rate limit of requests with a wrong API key from one client address."""
    max_webhooks: int | None = 20
    """Max webhooks of one tenant. Another one is answered with 403."""
    webhooks_allow_private: bool = False
    """Allows webhook URLs with http, and with addresses in private networks. For development and tests only."""
    webhook_threads: int = Field(default=8, ge=0)
    """Max concurrent webhook deliveries of one worker. 0 means that the worker delivers none; set it for workers
    without access to the internet."""

    worker_threads: int | None = Field(default=None, ge=1)
    """Max concurrent jobs of all kinds in one worker. Generations get what `concurrent_datasets` and
    `concurrent_finetunes` leave of it, at least 2. None allows as many generations as the device's largest batch has
    rows, at least 16."""
    worker_queues: str = ",".join(QUEUES)
    """Kinds of jobs that a worker takes, separated by commas."""
    metrics_port: int = 0
    """Port on `host` at which a worker serves Prometheus metrics, without an API key. 0 means none."""
    api_metrics_port: int = 0
    """Port on `host` at which the API serves Prometheus metrics, without an API key. 0 means none. The API's own route
    `/metrics` requires an administrator's API key."""

    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    """Lowest level of the messages in the log."""
    log_json: bool = False
    """Writes the log as one JSON object per line."""
    traces_endpoint: str = ""
    """URL at which an OpenTelemetry collector accepts traces by OTLP over HTTP, such as
    `http://collector:4318/v1/traces`. Empty means that no traces are sent."""
    traces_share: float = Field(default=1.0, ge=0, le=1)
    """Fraction of requests that are traced, among requests that do not already belong to a trace of their client."""

    @field_validator("admin_key", "url_secret")
    @classmethod
    def _long_secrets(cls, secret: SecretStr | None) -> SecretStr | None:
        if secret is not None and len(secret.get_secret_value()) < _SECRET_CHARACTERS:
            raise ValueError(
                f"must have at least {_SECRET_CHARACTERS} characters, or be left empty. "
                "`openssl rand -hex 32` makes a good one"
            )
        return secret

    @field_validator("database_url", "worker_database_url", "owner_database_url", "storage_url")
    @classmethod
    def _known_scheme(cls, url: str, info: ValidationInfo) -> str:
        schemes = ("file", "s3") if info.field_name == "storage_url" else ("sqlite", "postgresql")
        if url and url.partition(":")[0].partition("+")[0] not in schemes:
            raise ValueError(f"must start with {schemes[0]}:// or {schemes[1]}://")
        return url

    @field_validator("compile")
    @classmethod
    def _report_removed(cls, value: str | None) -> None:
        if value is not None:
            logger.warning("DIFFFIT_COMPILE has no effect: a GPU's steps are CUDA graphs without it. Remove it.")

    @field_validator("trusted_proxies")
    @classmethod
    def _networks(cls, proxies: str) -> str:
        """Returns the proxies' addresses as networks, separated by commas. Raises ValueError for a malformed address,
        which uvicorn would silently take for a host name."""
        networks = (ipaddress.ip_network(proxy.strip(), strict=False) for proxy in proxies.split(",") if proxy.strip())
        return ",".join(map(str, networks))

    @field_validator("worker_queues")
    @classmethod
    def _known_queues(cls, queues: str) -> str:
        """Returns the queues, separated by commas. Raises ValueError for an unknown one, whose worker would have no
        jobs."""
        names = [queue.strip() for queue in queues.split(",")]
        if not set(names) <= set(QUEUES):
            raise ValueError(f"must be queues of {', '.join(QUEUES)}, separated by commas")
        return ",".join(names)

    @field_validator("dataset_import_hosts")
    @classmethod
    def _hosts(cls, hosts: str) -> str:
        """Returns the patterns of hosts in lower case, separated by commas. Raises ValueError for a URL or a port."""
        names = [host.strip().lower() for host in hosts.split(",") if host.strip()]
        if any("/" in name or ":" in name for name in names):
            raise ValueError("must be hosts without a scheme, port or path, such as images.example.com")
        return ",".join(names)

    @field_validator("cors_origins")
    @classmethod
    def _origins(cls, origins: str) -> str:
        """Returns the origins as browsers send them, separated by commas. Raises ValueError for any other address."""
        names = [origin.strip().lower() for origin in origins.split(",") if origin.strip()]
        for name in names:
            parts = urlsplit(name)
            is_origin = parts.scheme in ("http", "https") and name == f"{parts.scheme}://{parts.netloc}"
            if name != "*" and not (is_origin and parts.netloc and "@" not in parts.netloc):
                raise ValueError("must be `*`, or origins without a path, such as https://app.example.com")
        return ",".join(names)

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
        """Checks that the three database URLs are all SQLite or all PostgreSQL. Validators run in the order of their
        definition, so `_embedded_defaults` has already filled in empty URLs."""
        urls = (self.database_url, self.worker_database_url, self.owner_database_url)
        if len({url.startswith("sqlite") for url in urls}) > 1:
            raise ValueError("database_url, worker_database_url and owner_database_url must lead to one database")
        return self

    @property
    def embedded(self) -> bool:
        """Whether the database is SQLite, in which the service creates its tables by itself."""
        return self.database_url.startswith("sqlite")


@lru_cache
def get_settings() -> Settings:
    """Returns the settings of this process, read from the environment at the first call. Only entry points call this:
    the API, the worker, migrations and command lines. All other code gets its settings as arguments.

    Logs a warning for each variable that looks like a setting and is none. Raises ValueError with one sentence per
    invalid variable. The message never contains values, which may be secret.
    """
    try:
        settings = Settings()
    except ValidationError as error:
        raise ValueError(" ".join(map(_sentence, error.errors()))) from None
    for name in _unknown_variables():
        near = difflib.get_close_matches(name, Settings.model_fields, 1)
        advice = f" Did you mean {_PREFIX}{near[0].upper()}?" if near else ""
        logger.warning("%s%s is not a setting and has no effect.%s", _PREFIX, name.upper(), advice)
    return settings


def _unknown_variables() -> list[str]:
    read = EnvSettingsSource(Settings).env_vars.keys() | DotEnvSettingsSource(Settings).env_vars.keys()
    start = _PREFIX.lower()  # both sources return names in lower case
    names = {name.removeprefix(start) for name in read if name.startswith(start)}
    return sorted(names - _CLIENTS - Settings.model_fields.keys())


def _sentence(error: ErrorDetails) -> str:
    variable = "".join(f"{_PREFIX}{str(name).upper()}: " for name in error["loc"])
    return f"{variable}{error['msg'].removeprefix('Value error, ')}."
