"""SQLAlchemy models of all tables, one module per subject."""

from core.service.db.models.adapters import Adapter
from core.service.db.models.datasets import Dataset, DatasetUpload
from core.service.db.models.domains import Domain, StoredBytes
from core.service.db.models.finetunes import Finetune, FinetuneEvent
from core.service.db.models.fleet import BaseModelRow, Worker
from core.service.db.models.generations import Generation, GenerationImage, GenerationPreview
from core.service.db.models.records import AuditEntry, Deletion, DiscardedObject, IdempotencyKey, UsageDay
from core.service.db.models.tenants import ApiKey, Tenant
from core.service.db.models.webhooks import Webhook, WebhookDelivery

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
