"""Exceptions of the service half: authentication, resources of the API, jobs, quotas, webhooks and the database."""

import datetime
from collections.abc import Sequence
from typing import Any

from core.artifact.errors import CoreError, InvalidRequest


class Unauthenticated(CoreError):
    code, status, title = "unauthenticated", 401, "Authentication required"

    def __init__(self, reason: str = "Send a valid API key as 'Authorization: Bearer <key>'.") -> None:
        super().__init__(reason)


class Forbidden(CoreError):
    code, status, title = "forbidden", 403, "Not allowed"

    def __init__(self, scope: str) -> None:
        super().__init__(f"This key lacks the scope '{scope}'. Use a key that has it.")


class InvalidCursor(InvalidRequest):
    code, status, title = "invalid_cursor", 422, "Invalid cursor"

    def __init__(self) -> None:
        reason = "The cursor does not belong to this list. Use `next_cursor` of the previous page."
        super().__init__("query.cursor", reason)


class InvalidPeriod(InvalidRequest):
    code, status, title = "invalid_period", 422, "Invalid period"

    def __init__(self, reason: str) -> None:
        super().__init__("query.from_day", reason)


class NameTaken(CoreError):
    code, status, title = "name_taken", 409, "Name already in use"

    def __init__(self, kind: str, name: str) -> None:
        super().__init__(f"There is already a {kind} named '{name}'. Choose another name.")


class ChangedMeanwhile(CoreError):
    code, status, title = "changed_meanwhile", 412, "Changed meanwhile"

    def __init__(self, id: str) -> None:
        super().__init__(
            f"'{id}' has changed since it was read (If-Match does not match). Read it again, then change it."
        )


class KeyRevoked(CoreError):
    code, status, title = "key_revoked", 409, "Key revoked"

    def __init__(self, id: str) -> None:
        super().__init__(f"The key '{id}' is revoked, which cannot be undone. Create another key.")


class LastAdminKey(CoreError):
    code, status, title = "last_admin_key", 409, "Last administrator's key"

    def __init__(self, id: str) -> None:
        super().__init__(f"'{id}' is the last administrator's key that stays valid. Rotate it, without a lifetime.")


class IdempotencyMismatch(CoreError):
    code, status, title = "idempotency_mismatch", 422, "Idempotency key used for another request"

    def __init__(self) -> None:
        super().__init__("This Idempotency-Key was already used with a different request. Send a new key.")


class IdempotencyConflict(CoreError):
    code, status, title = "idempotency_conflict", 409, "Request with this idempotency key still running"

    def __init__(self) -> None:
        super().__init__("A request with this Idempotency-Key is still running. Try again in a moment.")


class ResponseLost(CoreError):
    code, status, title = "response_lost", 409, "Response of the first request with this idempotency key lost"

    def __init__(self, target: str) -> None:
        super().__init__(
            f"A request with this Idempotency-Key was carried out, but its response was lost. Read '{target}', or send "
            "a new key to repeat the request."
        )


class ArchiveInvalid(CoreError):
    """Raised for a zip that cannot be used as a data set, even if its images are valid. `code` gives the reason."""

    status, title = 422, "The archive cannot be used"
    code = "archive_invalid"

    def __init__(self, code: str, detail: str, *, rejected: list[dict[str, Any]] | None = None) -> None:
        super().__init__(detail, errors=rejected)
        self.code = code  # type: ignore[misc]  # per instance: one exception class covers all reasons


class PartsMissing(CoreError):
    code, status, title = "parts_missing", 409, "Parts are missing"

    def __init__(self, numbers: list[int]) -> None:
        some = ", ".join(map(str, numbers[:20])) + (", …" if len(numbers) > 20 else "")
        super().__init__(
            f"These parts are missing or have other etags: {some}. Send them, then complete the upload again."
        )


class UploadEnded(CoreError):
    code, status, title = "upload_ended", 409, "Upload ended"

    def __init__(self, id: str, status: str) -> None:
        super().__init__(f"The upload '{id}' is {status}. Start another upload.")


class DatasetNotReady(CoreError):
    code, status, title = "dataset_not_ready", 409, "Data set not ready"

    def __init__(self, id: str, status: str) -> None:
        super().__init__(f"Data set '{id}' is {status}. Wait until it is ready, or upload another.")


class NoActiveAdapter(CoreError):
    code, status, title = "no_active_adapter", 409, "Domain has no adapter yet"

    def __init__(self, domain_id: str) -> None:
        super().__init__(f"Domain '{domain_id}' has no active adapter. Fine-tune it first, or promote a version.")


class AdapterQuarantined(CoreError):
    code, status, title = "adapter_quarantined", 409, "Adapter quarantined"

    def __init__(self, id: str) -> None:
        super().__init__(f"Adapter '{id}' failed its checks and is not served. Promote another version or retrain.")


class AdapterActive(CoreError):
    code, status, title = "adapter_active", 409, "Active version"

    def __init__(self, id: str) -> None:
        super().__init__(
            f"'{id}' is the active version of its domain. Promote another version first, or delete the domain."
        )


class AdapterInUse(CoreError):
    code, status, title = "adapter_in_use", 409, "Version in use"

    def __init__(self, id: str, jobs: Sequence[str]) -> None:
        """`jobs` has the ids of some of the unfinished jobs that need the adapter."""
        super().__init__(f"'{id}' is needed by {', '.join(jobs)}. Wait until they end or cancel them, then delete it.")


class EditInvalid(CoreError):
    code, status, title = "edit_invalid", 422, "The data set cannot be changed like this"

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}", errors=[{"field": f"body.{field}", "detail": reason}])


class ImportsOff(CoreError):
    code, status, title = "imports_off", 403, "Imports are switched off"

    def __init__(self) -> None:
        super().__init__(
            "This service fetches no images from other hosts. Upload them, or ask the operator to set "
            "DIFFFIT_DATASET_IMPORT_HOSTS."
        )


class ImportRefused(CoreError):
    """Raised for an entry of an import that would certainly fail, before any image is fetched."""

    code, status, title = "import_refused", 422, "Import refused"

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}", errors=[{"field": f"body.{field}", "detail": reason}])


class DatasetInUse(CoreError):
    code, status, title = "dataset_in_use", 409, "Data set in use"

    def __init__(self, id: str, jobs: Sequence[str]) -> None:
        """`jobs` has the ids of some of the unfinished fine-tunes and copies that need the data set."""
        super().__init__(
            f"'{id}' is needed by {', '.join(jobs)}. Wait until they end, or cancel the fine-tunes and delete the "
            "copies, then delete it."
        )


class DomainInUse(CoreError):
    code, status, title = "domain_in_use", 409, "Domain in use"

    def __init__(self, id: str, jobs: Sequence[str]) -> None:
        """`jobs` has the ids of some of the other domains' unfinished fine-tunes and copies that need this domain."""
        super().__init__(
            f"'{id}' is needed by {', '.join(jobs)} of other domains. Wait until they end, or cancel the fine-tunes "
            "and delete the copies, then delete it."
        )


class FinetuneInUse(CoreError):
    code, status, title = "finetune_in_use", 409, "Fine-tune in use"

    def __init__(self, id: str, adapter_id: str) -> None:
        super().__init__(f"'{id}' trained the version '{adapter_id}', which still exists. Delete the version first.")


class MethodNotServed(CoreError):
    code, status, title = "method_not_served", 422, "Method not served"

    def __init__(self, method: str, served: Sequence[str], others: Sequence[str]) -> None:
        reason = f"'{method}' is not served; use {' or '.join(served)}, which can share a batch with other domains"
        detail = f"method: {reason}. `difffit train --method` trains {', '.join(others)} without a server."
        super().__init__(detail, errors=[{"field": "body.method", "detail": reason}])


class ImageSizeUnsupported(CoreError):
    code, status, title = "image_size_unsupported", 422, "Image size not supported by the base"

    def __init__(self, reason: str) -> None:
        super().__init__(f"image_size: {reason}.", errors=[{"field": "image_size", "detail": reason}])


class BaseNotLoaded(CoreError):
    code, status, title = "base_not_loaded", 503, "Base not loaded yet"

    def __init__(self, name: str, held: Sequence[str] = ()) -> None:
        """`name` is the configured base model, and `held` names the base models that the live workers have loaded
        instead."""
        if held:
            others = " and ".join(f"'{other}'" for other in held)
            detail = (
                f"The workers serve the base {others}, not the API's '{name}'. Ask the operator to set one for both."
            )
            super().__init__(detail, retry_after=60)
        else:
            detail = f"No worker has loaded the base '{name}' yet. Try again shortly."
            super().__init__(detail, retry_after=5)


class JobFinished(CoreError):
    code, status, title = "already_finished", 409, "Already finished"

    def __init__(self, kind: str, id: str, status: str) -> None:
        super().__init__(f"The {kind} '{id}' is {status}, so it cannot be cancelled.")


class NotEnded(CoreError):
    code, status, title = "not_ended", 409, "Not ended yet"

    def __init__(self, kind: str, id: str, status: str) -> None:
        super().__init__(f"The {kind} '{id}' is {status}. Wait until it ends or cancel it, then delete it.")


class ImageExpired(CoreError):
    """Raised when retention has deleted an image; the row of the image's generation still exists."""

    code, status, title = "image_expired", 410, "Image expired"

    def __init__(self, id: str, at: datetime.datetime) -> None:
        super().__init__(
            f"The images of '{id}' expired on {at:%Y-%m-%d}, the end of this service's storage period. Generate them "
            "again with the same seed."
        )


class WorkerCrashed(CoreError):
    code, status, title = "crashed_worker", 500, "Worker crashed"

    def __init__(self, crashes: int) -> None:
        super().__init__(
            f"The worker crashed {crashes} times while running only this job. Start it again with less data: a smaller "
            "batch, fewer images, a smaller file."
        )


class DeviceCrashed(CoreError):
    code, status, title = "device_crashed", 500, "Device failed"

    def __init__(self, crashes: int) -> None:
        super().__init__(
            f"The device failed {crashes} times while running only this job. Start it again with a "
            "smaller batch or image size."
        )


class QuotaExceeded(CoreError):
    """Raised when a request for `added` more would exceed the quota `name`. A retry may succeed after `retry_after`
    seconds, but not if `added` is more than the quota itself."""

    code, status, title = "quota_exceeded", 429, "Quota exceeded"

    def __init__(self, name: str, limit: int, used: int, added: int, retry_after: int) -> None:
        wait = f"{retry_after} s" if retry_after < 120 else f"{-(-retry_after // 60):,} min"
        advice = f"Try again in {wait}" if added <= limit else "Ask for less at once"
        super().__init__(
            f"The quota '{name}' is {limit:,}, {used:,} are used, and this needs {added:,}. {advice}, or ask the "
            "operator for more.",
            retry_after=retry_after,
            limit=(name, limit),
        )


class StorageQuotaExceeded(CoreError):
    """Raised when stored objects would exceed the tenant's quota of bytes. The status is 403, not 429, since a retry
    does not succeed until something is deleted."""

    code, status, title = "storage_quota_exceeded", 403, "Storage quota exceeded"

    def __init__(self, limit: int, used: int, more: int = 0) -> None:
        needed = f", and this needs {more:,} more" if more else ""
        super().__init__(
            f"{used:,} of {limit:,} bytes are used{needed}. "
            "Delete data sets, versions or images, abort unneeded uploads, or ask the operator for more."
        )


class WebhookQuotaExceeded(CoreError):
    """Raised when a tenant would have too many webhooks. The status is 403, not 429, since a retry does not succeed
    until a webhook is deleted."""

    code, status, title = "webhook_quota_exceeded", 403, "Too many webhooks"

    def __init__(self, limit: int) -> None:
        super().__init__(f"At most {limit} webhooks are allowed. Delete one that is no longer needed.")


class WebhookUrlRefused(CoreError):
    code, status, title = "webhook_url_refused", 422, "Webhook URL refused"

    def __init__(self, reason: str, field: str = "url") -> None:
        """`field` is the field of the request's body that has the URL."""
        super().__init__(f"The URL {reason}.", errors=[{"field": f"body.{field}", "detail": reason}])
        self.reason = reason


class WebhookDisabled(CoreError):
    code, status, title = "webhook_disabled", 409, "Webhook disabled"

    def __init__(self, id: str) -> None:
        super().__init__(f"The webhook '{id}' is disabled. Enable it first.")


class WebhookBacklog(CoreError):
    code, status, title = "webhook_backlog", 409, "Too many pending deliveries"

    def __init__(self, most: int) -> None:
        super().__init__(
            f"The webhook has {most:,} pending deliveries; it gets no further one. Repair its receiver, and send this "
            "event again when there are fewer."
        )


class DatabaseUnavailable(CoreError):
    code, status, title = "database_unavailable", 503, "Database unavailable"

    def __init__(self) -> None:
        super().__init__("The database does not respond. Try again.", retry_after=5)


class ResultRefused(CoreError):
    """Raised when the database is available, but repeatedly rejects the result of a job's attempt."""

    code, status, title = "result_refused", 503, "Result not stored"

    def __init__(self) -> None:
        super().__init__("The database rejects the job's result. Send the id of this job to the operator.")


class DatabaseSignInRejected(CoreError):
    code, status, title = "database_sign_in_rejected", 500, "Database sign-in rejected"

    def __init__(self, reason: str) -> None:
        super().__init__(f"PostgreSQL rejects the sign-in ({reason}). Check role, password and database in the URL.")


class DatabaseRoleUnfit(CoreError):
    code, status, title = "database_role_unfit", 500, "Database role not accepted"

    def __init__(self, role: str, reason: str) -> None:
        super().__init__(
            f"PostgreSQL's role '{role}' {reason}. Connect as a role that deploy/postgres/roles.sql created."
        )
