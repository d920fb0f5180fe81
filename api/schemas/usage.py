import datetime
from typing import Any

from api.schemas.common import Output, Time


class UsageDayOut(Output):
    day: datetime.date
    images: int
    row_steps: int
    training_seconds: float


class TenantUsageDayOut(UsageDayOut):
    tenant_id: str


class UsageOut(Output):
    images: int
    row_steps: int
    training_seconds: float
    stored_bytes: int
    days: list[UsageDayOut]


class WorkerOut(Output):
    id: str
    hostname: str
    pid: int
    device: str
    base_digest: str | None
    queues: list[str]
    resident: list[str]
    started_at: Time
    heartbeat_at: Time


class AuditOut(Output):
    id: int
    tenant_id: str | None
    actor_key_id: str | None
    action: str
    target: str
    detail: dict[str, Any]
    created_at: Time
