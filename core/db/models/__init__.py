"""The tables, a file a noun."""

from core.db.models.adapters import Adapter
from core.db.models.datasets import Dataset, DatasetUpload
from core.db.models.domains import Domain, StoredBytes
from core.db.models.finetunes import Finetune, FinetuneEvent
from core.db.models.fleet import BaseModelRow, Worker
from core.db.models.generations import Generation, GenerationImage, GenerationPreview
from core.db.models.records import AuditEntry, Deletion, DiscardedObject, IdempotencyKey, UsageDay
from core.db.models.tenants import ApiKey, Tenant
from core.db.models.webhooks import Webhook, WebhookDelivery

__all__ = [
    "Adapter",
    "ApiKey",
    "AuditEntry",
    "BaseModelRow",
    "Dataset",
    "DatasetUpload",
    "Deletion",
    "DiscardedObject",
    "Domain",
    "Finetune",
    "FinetuneEvent",
    "Generation",
    "GenerationImage",
    "GenerationPreview",
    "IdempotencyKey",
    "StoredBytes",
    "Tenant",
    "UsageDay",
    "Webhook",
    "WebhookDelivery",
    "Worker",
]
