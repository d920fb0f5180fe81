"""Errors of the object store and of temporary files."""

from typing import ClassVar

from core.artifact.errors import CoreError, NotFound


class ObjectNotFound(NotFound):
    """Error for an object that a database row refers to, but the object store does not have. The storage key is not
    part of the message, but is logged for the operator."""

    def __init__(self) -> None:
        CoreError.__init__(self, "The stored file is missing. Send the id of this request or job to the operator.")


class StorageUnavailable(CoreError):
    code, status, title = "storage_unavailable", 503, "Storage unavailable"
    sentence: ClassVar[str] = "The object store does not respond ({reason}). Try again."

    def __init__(self, reason: str) -> None:
        super().__init__(self.sentence.format(reason=reason), retry_after=5)


class StorageFull(StorageUnavailable):
    code, title = "storage_full", "Storage full"
    sentence = "The object store is full ({reason}). Try again when the operator has made room."


class StorageRefused(StorageUnavailable):
    """Error for an object store that responds, but rejects calls until an operator changes the store or the service's
    configuration."""

    sentence = "The object store rejects this service ({reason}). The operator must fix this; jobs then continue."


class ScratchFull(StorageUnavailable):
    """Error for a full disk of temporary files on this host, as opposed to a full object store."""

    code, title = "scratch_full", "No room for temporary files"
    sentence = "The disk of {reason} is full. Try again when the operator has made room."


class ScratchTooSmall(CoreError):
    code, status, title = "scratch_too_small", 500, "Too little room for temporary files"

    def __init__(self, folder: str, total_bytes: int, setting: str, needed_bytes: int) -> None:
        super().__init__(
            f"The disk of {folder} has {total_bytes:,} bytes, and {setting} needs {needed_bytes:,}. Set TMPDIR to a "
            "larger disk, or change the setting."
        )
