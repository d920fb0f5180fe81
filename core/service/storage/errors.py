"""Errors of the object store and of temporary files."""

from typing import ClassVar

from core.artifact.errors import CoreError, NotFound


class ObjectNotFound(NotFound):
    """An object of the store that a row names. Its key is the operator's matter, and in the log."""

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
    """The store responds, but rejects calls until its operator or ours changes something."""

    sentence = "The object store rejects this service ({reason}). The operator must fix this; jobs then continue."


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
