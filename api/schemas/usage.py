from datetime import date
from typing import Any

from pydantic import Field

from api.schemas.common import TENANT_NAME, Digest, Output, Time
from core.service.quotas import QuotaName


class Consumption(Output):
    images: int
    model_evaluations: int = Field(description="Model evaluations (NFE): one per image and step, two with guidance.")
    training_seconds: float = Field(description="Device time.")


class UsageDayOut(Consumption):
    day: date = Field(description="Day in UTC.")


class TenantUsageDayOut(UsageDayOut):
    tenant_id: str
    tenant_name: str | None = Field(None, description=TENANT_NAME)


class QuotaOut(Output):
    limit: int | None = Field(description="Null means unlimited.")
    used: int = Field(description="For requests per minute without a limit: always 0, since they are not counted.")


class UsageOut(Consumption):
    """Total usage since the tenant was created, with its quotas and its usage per day."""

    stored_bytes: int = Field(description="Current size of all stored objects, including images.")
    quotas: dict[QuotaName, QuotaOut] = Field(description="Quotas of the tenant and their use.")
    days: list[UsageDayOut] = Field(description="Days of the period with any usage, newest first.")


class WorkerOut(Output):
    id: str
    hostname: str
    pid: int
    device: str = Field(examples=["cuda:0"])
    base_digest: Digest | None
    queues: list[str] = Field(examples=[["datasets", "finetune", "generate"]])
    resident: list[str] = Field(description="SHA-256 of the adapters in device memory.")
    healthy: bool = Field(description="Whether the engine's loop runs and the device computes.")
    problem: str | None = Field(description="Reason why the worker is not healthy.")
    started_at: Time
    heartbeat_at: Time


class QueueOut(Output):
    queue: str = Field(examples=["generate"])
    waiting: int = Field(description="Number of jobs that no worker has taken yet.")
    running: int = Field(description="Number of jobs that a worker is running.")
    oldest_waiting_at: Time | None = Field(description="Time since which the oldest job has been waiting.")


class AuditOut(Output):
    id: int
    tenant_id: str | None
    tenant_name: str | None = Field(None, description=TENANT_NAME)
    actor_key_id: str | None = Field(description="Null for actions of the service itself.")
    action: str = Field(examples=["adapter.promote"])
    target: str = Field(examples=["adp_01m84b6j6k1yq7c2b7m4z5d3xw"])
    target_name: str | None = Field(
        None, description="Name of the target, if it is a tenant or a domain that was not deleted."
    )
    detail: dict[str, Any]
    address: str | None = Field(description="Address of the client. Null for actions of the service itself.")
    request_id: str | None = Field(description="`X-Request-ID` of the request, or of the request that caused the job.")
    created_at: Time


class Liveness(Output):
    status: str = Field("ok", examples=["ok"])


class Readiness(Output):
    status: str = Field(examples=["ready", "unavailable"])
    problems: dict[str, str] = Field(
        description="Failures that affect every request, by name: database, migrations.",
        examples=[{"database": "The database does not respond."}],
    )
    workers: int = Field(description="Number of live workers.")
    warnings: dict[str, str] = Field(
        description="Failures that affect only some requests, by name: storage, broker, worker, queues, base.",
        examples=[{"worker": "No worker is alive: jobs wait."}],
    )
