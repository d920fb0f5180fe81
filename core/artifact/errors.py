"""Everything that can go wrong by name. Each error has a stable `code`, an HTTP status, and a sentence that says what
to do. The API renders them as problem details; a job stores the code and the sentence.
"""

import datetime
from collections.abc import Sequence
from typing import Any, ClassVar


class CoreError(Exception):
    """The root. Subclasses take typed arguments and build `detail` from them."""

    code: ClassVar[str] = "internal_error"
    status: ClassVar[int] = 500
    title: ClassVar[str] = "Internal error"

    def __init__(
        self, detail: str, *, errors: list[dict[str, Any]] | None = None, headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.errors = errors or []
        self.headers = headers or {}


# Who asks, and for what


class Unauthenticated(CoreError):
    code, status, title = "unauthenticated", 401, "Authentication required"

    def __init__(self, reason: str = "Send a valid API key as 'Authorization: Bearer <key>'.") -> None:
        super().__init__(reason, headers={"WWW-Authenticate": "Bearer"})


class Forbidden(CoreError):
    code, status, title = "forbidden", 403, "Not allowed"

    def __init__(self, scope: str) -> None:
        super().__init__(f"This key lacks the scope '{scope}'. Use a key that has it.")


class NotFound(CoreError):
    code, status, title = "not_found", 404, "Not found"

    def __init__(self, kind: str, id: str) -> None:
        super().__init__(f"There is no {kind} '{id}'.")


class ObjectNotFound(NotFound):
    """An object of the store that a row names. Its key is the operator's matter, and in the log."""

    def __init__(self) -> None:
        CoreError.__init__(self, "The stored file is missing. Send the id of this request or job to the operator.")


class InvalidRequest(CoreError):
    code, status, title = "invalid_request", 422, "Invalid request"

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}", errors=[{"field": field, "detail": reason}])


class InvalidCursor(CoreError):
    code, status, title = "invalid_cursor", 422, "Invalid cursor"

    def __init__(self) -> None:
        reason = "This is no cursor of this list. Take it from `next_cursor` of the previous page."
        super().__init__(f"query.cursor: {reason}", errors=[{"field": "query.cursor", "detail": reason}])


class NameTaken(CoreError):
    code, status, title = "name_taken", 409, "Name already in use"

    def __init__(self, kind: str, name: str) -> None:
        super().__init__(f"There is already a {kind} named '{name}'. Choose another name.")


class ChangedMeanwhile(CoreError):
    code, status, title = "changed_meanwhile", 412, "Changed meanwhile"

    def __init__(self, id: str) -> None:
        super().__init__(f"'{id}' is not what If-Match says any more. Read it again, then change it.")


class KeyRevoked(CoreError):
    code, status, title = "key_revoked", 409, "Key revoked"

    def __init__(self, id: str) -> None:
        super().__init__(f"The key '{id}' was revoked, for good. Create another one.")


class LastAdminKey(CoreError):
    code, status, title = "last_admin_key", 409, "Last administrator's key"

    def __init__(self, id: str) -> None:
        super().__init__(f"'{id}' is the last administrator's key that works. Rotate it, and use the new key.")


class PayloadTooLarge(CoreError):
    code, status, title = "payload_too_large", 413, "Upload too large"

    def __init__(self, limit_bytes: int) -> None:
        super().__init__(f"The upload is larger than the limit of {limit_bytes:,} bytes.")


class IdempotencyMismatch(CoreError):
    code, status, title = "idempotency_mismatch", 422, "Idempotency key used for another request"

    def __init__(self) -> None:
        super().__init__("This Idempotency-Key came with a different request before. Send a new key.")


class IdempotencyConflict(CoreError):
    code, status, title = "idempotency_conflict", 409, "Request with this key still running"

    def __init__(self) -> None:
        super().__init__("A request with this Idempotency-Key is still running. Try again in a moment.")


# Data sets


class ArchiveInvalid(CoreError):
    """A zip that cannot be a data set, whatever its images hold. `code` tells which way."""

    status, title = 422, "The archive cannot be used"
    code = "archive_invalid"

    def __init__(self, code: str, detail: str, *, rejected: list[dict[str, Any]] | None = None) -> None:
        super().__init__(detail, errors=rejected)
        self.code = code  # type: ignore[misc]  # one class for the ways in which a zip can be wrong


class PartsMissing(CoreError):
    code, status, title = "parts_missing", 409, "Parts are missing"

    def __init__(self, numbers: list[int]) -> None:
        some = ", ".join(map(str, numbers[:20])) + (", …" if len(numbers) > 20 else "")
        super().__init__(f"The parts {some} are not there, or not with these etags. Send them, then complete again.")


class UploadEnded(CoreError):
    code, status, title = "upload_ended", 409, "Upload ended"

    def __init__(self, id: str, status: str) -> None:
        super().__init__(f"The upload '{id}' is {status}. Begin another one.")


class DatasetNotReady(CoreError):
    code, status, title = "dataset_not_ready", 409, "Data set not ready"

    def __init__(self, id: str, status: str) -> None:
        super().__init__(f"Data set '{id}' is {status}. Wait until it is ready, or upload another.")


# Adapters and bases


class ArtifactInvalid(CoreError):
    code, status, title = "artifact_invalid", 422, "The adapter file cannot be used"


class BaseMismatch(CoreError):
    code, status, title = "base_mismatch", 409, "Adapter made for another base"

    def __init__(self, adapter_base: str, base: str) -> None:
        super().__init__(
            f"This adapter was made for the base {adapter_base[:12]}, the service holds {base[:12]}. "
            "Start a fine-tune on the domain's kept data set to retrain it."
        )


class NoActiveAdapter(CoreError):
    code, status, title = "no_active_adapter", 409, "Domain has no adapter yet"

    def __init__(self, domain_id: str) -> None:
        super().__init__(f"Domain '{domain_id}' has no active adapter. Fine-tune it first, or promote a version.")


class AdapterQuarantined(CoreError):
    code, status, title = "adapter_quarantined", 409, "Adapter quarantined"

    def __init__(self, id: str) -> None:
        super().__init__(f"Adapter '{id}' failed its checks and is not served. Promote another version or retrain.")


class MethodNotServed(CoreError):
    code, status, title = "method_not_served", 422, "Method not served"

    def __init__(self, method: str, served: Sequence[str], others: Sequence[str]) -> None:
        reason = f"'{method}' is not served; {' and '.join(served)} are, which draw in one batch with other domains"
        detail = f"method: {reason}. `difffit train --method` trains {', '.join(others)} without a server."
        super().__init__(detail, errors=[{"field": "body.method", "detail": reason}])


class ImageSizeUnsupported(CoreError):
    code, status, title = "image_size_unsupported", 422, "Image size not drawn by the base"

    def __init__(self, reason: str) -> None:
        super().__init__(f"image_size: {reason}.", errors=[{"field": "image_size", "detail": reason}])


class UnknownClass(CoreError):
    code, status, title = "unknown_class", 422, "Unknown class"

    def __init__(self, name: str, known: list[str]) -> None:
        some = ", ".join(known[:20]) + (", …" if len(known) > 20 else "")
        super().__init__(f"The adapter has no class '{name}'. It knows: {some}.")


class ChecksumMismatch(CoreError):
    code, status, title = "checksum_mismatch", 500, "Stored object damaged"

    def __init__(self) -> None:
        super().__init__("The stored file is damaged. Send the id of this request or job to the operator.")


class BaseNotLoaded(CoreError):
    code, status, title = "base_not_loaded", 503, "Base not loaded yet"

    def __init__(self, name: str, held: Sequence[str] = ()) -> None:
        """`held` names the bases that the live workers hold instead."""
        if held:
            others = " and ".join(f"'{other}'" for other in held)
            detail = f"The API serves the base '{name}', its workers hold {others}. Ask the operator to set one base."
            super().__init__(detail, headers={"Retry-After": "60"})
        else:
            detail = f"No worker has loaded the base '{name}' yet. Try again shortly."
            super().__init__(detail, headers={"Retry-After": "5"})


class BaseMissing(CoreError):
    code, status, title = "base_missing", 500, "Base not found"

    def __init__(self, reference: str, reason: str) -> None:
        super().__init__(f"The base '{reference}' cannot be loaded: {reason} Set DIFFFIT_BASE_MODEL.")


class CheckpointInvalid(CoreError):
    code, status, title = "checkpoint_invalid", 500, "Checkpoint cannot be used"


# Jobs


class JobFinished(CoreError):
    code, status, title = "already_finished", 409, "Already finished"

    def __init__(self, kind: str, id: str, status: str) -> None:
        super().__init__(f"The {kind} '{id}' is {status}, so it cannot be cancelled.")


class ImageExpired(CoreError):
    """Its generation is there, and tells when."""

    code, status, title = "image_expired", 410, "Image expired"

    def __init__(self, id: str, at: datetime.datetime) -> None:
        super().__init__(f"The images of '{id}' were removed on {at:%Y-%m-%d}, as this service keeps none for longer.")


class Cancelled(CoreError):
    code, status, title = "cancelled", 409, "Cancelled"

    def __init__(self) -> None:
        super().__init__("It was cancelled.")


class DeadlineExceeded(CoreError):
    code, status, title = "deadline_exceeded", 504, "Deadline passed"

    def __init__(self) -> None:
        super().__init__("The deadline passed before the images were done. Ask for fewer steps or a later deadline.")


class DrawingDiverged(CoreError):
    code, status, title = "drawing_diverged", 500, "Drawing diverged"

    def __init__(self) -> None:
        super().__init__("The numbers of an image were not finite. Use a lower guidance scale or another adapter.")


class WorkerCrashed(CoreError):
    code, status, title = "crashed_worker", 500, "Its worker died of it"

    def __init__(self, crashes: int) -> None:
        super().__init__(
            f"Its worker died {crashes} times while it worked on nothing else. Start it again with less: a smaller "
            "batch, fewer images, a smaller file."
        )


class DeviceCrashed(CoreError):
    code, status, title = "device_crashed", 500, "The device failed under it"

    def __init__(self, crashes: int) -> None:
        super().__init__(
            f"A worker's device failed {crashes} times while it worked on nothing else. Start it again with less: a "
            "smaller batch or image size."
        )


class TrainingDiverged(CoreError):
    code, status, title = "training_diverged", 500, "Training diverged"

    def __init__(self, step: int) -> None:
        super().__init__(f"The loss was not finite at step {step}. Use a lower learning rate or gradient clipping.")


class TrainingOutOfMemory(CoreError):
    code, status, title = "out_of_memory", 500, "Memory ran out"

    def __init__(self, reason: str = "one image at a time does not fit into the worker's memory") -> None:
        super().__init__(f"Training ran out of memory: {reason}. Use a smaller batch_size or image_size.")


# The services below, and the device


class QueueFull(CoreError):
    code, status, title = "queue_full", 429, "Too much work waiting"

    def __init__(self, waiting: int, limit: int, retry_after: int = 5) -> None:
        super().__init__(
            f"{waiting} requests are waiting already. Try again in {retry_after} s.",
            headers=_limit_headers("queued_generations", limit, retry_after),
        )


class QuotaExceeded(CoreError):
    """`name` is that of the quota; `retry_after` seconds later there may be room."""

    code, status, title = "quota_exceeded", 429, "Quota used up"

    def __init__(self, name: str, limit: int, used: int, retry_after: int) -> None:
        super().__init__(
            f"The quota '{name}' is {limit}, and {used} are used. Try again in {retry_after} s, or ask for more.",
            headers=_limit_headers(name, limit, retry_after),
        )


class RateLimited(CoreError):
    """`what` came too often; `retry_after` seconds later there is room."""

    code, status, title = "rate_limited", 429, "Too many requests"

    def __init__(self, what: str, limit: int, retry_after: int) -> None:
        super().__init__(
            f"More than {limit} {what} a minute. Try again in {retry_after} s.",
            headers={"Retry-After": str(retry_after)},
        )


class TooManyTransfers(CoreError):
    code, status, title = "too_many_transfers", 429, "Too many uploads and downloads at once"

    def __init__(self, what: str, limit: int) -> None:
        super().__init__(
            f"At most {limit:,} {what} may be on their way at once. Try again when one has ended.",
            headers={"Retry-After": "5"},
        )


class TooManyStreams(CoreError):
    code, status, title = "too_many_streams", 429, "Too many event streams"

    def __init__(self, what: str, limit: int) -> None:
        super().__init__(
            f"At most {limit:,} {what} may be open at once. Close one, then try again.", headers={"Retry-After": "5"}
        )


class ServiceBusy(CoreError):
    """The limit is the service's own, whoever else uses it up."""

    code, status, title = "service_busy", 503, "Service busy"

    def __init__(self, what: str) -> None:
        super().__init__(f"The service has no room for more {what} now. Try again.", headers={"Retry-After": "5"})


class StorageQuotaExceeded(CoreError):
    """No time will help, so this is no 429."""

    code, status, title = "storage_quota_exceeded", 403, "Storage quota used up"

    def __init__(self, limit: int, used: int, more: int) -> None:
        super().__init__(
            f"{used:,} of {limit:,} bytes are stored, and this needs {more:,} more. "
            "Delete a domain, abort uploads that are not needed, or ask for more."
        )


class WebhookQuotaExceeded(CoreError):
    """No time will help here either."""

    code, status, title = "webhook_quota_exceeded", 403, "Too many webhooks"

    def __init__(self, limit: int) -> None:
        super().__init__(f"There may be {limit} webhooks. Delete one that is not needed any more.")


class WebhookUrlRefused(CoreError):
    code, status, title = "webhook_url_refused", 422, "Webhook URL refused"

    def __init__(self, reason: str) -> None:
        super().__init__(f"The URL {reason}.", errors=[{"field": "body.url", "detail": reason}])


class WebhookDisabled(CoreError):
    code, status, title = "webhook_disabled", 409, "Webhook disabled"

    def __init__(self, id: str) -> None:
        super().__init__(f"The webhook '{id}' is disabled: `disabled_reason` tells why. Enable it first.")


class EngineStopped(CoreError):
    code, status, title = "engine_stopped", 503, "Worker is stopping"

    def __init__(self, detail: str = "The worker is stopping; the work goes on elsewhere.") -> None:
        super().__init__(detail)


class DeviceLost(EngineStopped):
    """The device of this process computes nothing any more. No job is at fault: all of them go on elsewhere."""

    code, title = "device_lost", "Device lost"

    def __init__(self, reason: str) -> None:
        super().__init__(f"The worker's device failed ({reason}); the work goes on elsewhere.")


class StorageUnavailable(CoreError):
    code, status, title = "storage_unavailable", 503, "Storage unavailable"
    sentence: ClassVar[str] = "The object store does not answer ({reason}). Try again."

    def __init__(self, reason: str) -> None:
        super().__init__(self.sentence.format(reason=reason), headers={"Retry-After": "5"})


class StorageFull(StorageUnavailable):
    code, title = "storage_full", "Storage full"
    sentence = "The object store has no room ({reason}). Try again when its operator has made some."


class UploadSpaceFull(StorageUnavailable):
    """The API's own disk, where uploads lie until they are stored."""

    code, title = "storage_full", "Storage full"
    sentence = "The service has no room to receive uploads ({reason}). Try again when its operator has made some."


class StorageRefused(StorageUnavailable):
    """The store answers, and will go on to refuse until its operator or ours changes something."""

    sentence = "The object store refuses this service ({reason}). The operator must mend that; then it goes on."


class ScratchFull(StorageUnavailable):
    """Our own disk, not the store."""

    code, title = "scratch_full", "No room for temporary files"
    sentence = "The disk of {reason} is full. Try again when the operator has made room."


class ScratchTooSmall(CoreError):
    code, status, title = "scratch_too_small", 500, "Too little room for temporary files"

    def __init__(self, folder: str, total_bytes: int, setting: str, needed_bytes: int) -> None:
        super().__init__(
            f"The disk of {folder} has {total_bytes:,} bytes, and {setting} needs {needed_bytes:,}. Set TMPDIR to a "
            "larger disk, or change the setting."
        )


class DatabaseUnavailable(CoreError):
    code, status, title = "database_unavailable", 503, "Database unavailable"

    def __init__(self) -> None:
        super().__init__("The database does not answer. Try again.", headers={"Retry-After": "5"})


class ResultRefused(CoreError):
    """The database answers, and does not take what an attempt made, however often it is offered."""

    code, status, title = "result_refused", 503, "Result not stored"

    def __init__(self) -> None:
        super().__init__("The database does not take the result. Send the id of this job to the operator.")


class DatabaseRoleUnfit(CoreError):
    code, status, title = "database_role_unfit", 500, "Database role not accepted"

    def __init__(self, role: str, reason: str) -> None:
        super().__init__(
            f"PostgreSQL's role '{role}' {reason}. Connect as a role that deploy/postgres/roles.sql has made."
        )


def _limit_headers(name: str, limit: int, retry_after: int) -> dict[str, str]:
    """Retry-After, and the fields of the draft "RateLimit header fields for HTTP"."""
    fields = {"RateLimit-Policy": f'"{name}";q={limit}', "RateLimit": f'"{name}";r=0;t={retry_after}'}
    return {"Retry-After": str(retry_after), **fields}
