from datetime import date
from typing import Any

from pydantic import Field

from api.schemas.common import Digest, Output, Time
from core.service.quotas import QuotaName


class Consumption(Output):
    images: int
    row_steps: int = Field(description="Forward rows: one for each image and step, two where guided.")
    training_seconds: float = Field(description="Device time.")


class UsageDayOut(Consumption):
    day: date = Field(description="In UTC.")


class TenantUsageDayOut(UsageDayOut):
    tenant_id: str


class QuotaOut(Output):
    limit: int | None = Field(description="Null for none.")
    used: int = Field(description="Of requests a minute: 0 without a limit, since nobody counts them then.")


class UsageOut(Consumption):
    """From the beginning on."""

    stored_bytes: int = Field(description="Of all its objects, images included, now.")
    quotas: dict[QuotaName, QuotaOut] = Field(description="What the tenant may have at once, and use in a time.")
    days: list[UsageDayOut] = Field(description="The last 30 days in which anything was used, newest first.")


class WorkerOut(Output):
    id: str
    hostname: str
    pid: int
    device: str = Field(examples=["cuda:0"])
    base_digest: Digest | None
    queues: list[str] = Field(examples=[["datasets", "finetune", "generate"]])
    resident: list[str] = Field(description="SHA-256 of the adapters in its device table.")
    healthy: bool = Field(description="Its engine's loop turns, and its device computes.")
    problem: str | None = Field(description="Why it is not healthy.")
    started_at: Time
    heartbeat_at: Time


class QueueOut(Output):
    queue: str = Field(examples=["generate"])
    waiting: int = Field(description="Rows that no worker has taken yet.")
    running: int = Field(description="Rows that a worker holds.")
    oldest_waiting_at: Time | None = Field(description="Since when the oldest one waits.")


class AuditOut(Output):
    id: int
    tenant_id: str | None
    actor_key_id: str | None = Field(description="Null for what the service did by itself.")
    action: str = Field(examples=["adapter.promote"])
    target: str = Field(examples=["adp_01m84b6j6k1yq7c2b7m4z5d3xw"])
    detail: dict[str, Any]
    address: str | None = Field(description="Of the client. Null for what the service did by itself.")
    request_id: str | None = Field(description="`X-Request-ID` of the request, or of the one that caused the job.")
    created_at: Time


class Liveness(Output):
    status: str = Field("ok", examples=["ok"])


class Readiness(Output):
    status: str = Field(examples=["ready", "unavailable"])
    problems: dict[str, str] = Field(
        description="What every request needs and is missing, by name: database, migrations.",
        examples=[{"database": "The database does not answer."}],
    )
    workers: int = Field(description="Workers that are alive.")
    warnings: dict[str, str] = Field(
        description="What only some requests need, by name: storage, broker, worker, base.",
        examples=[{"worker": "No worker is alive: work waits."}],
    )
