"""Object store in a folder of the file system."""

import errno
import hashlib
import io
import os
import shutil
import tempfile
import uuid
from collections.abc import Container, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from core.service.storage.objects import (
    CHUNK,
    ListedObject,
    Part,
    StoredObject,
    copy_out,
    file_digest,
    missing,
    unusable,
    verify,
)
from core.service.storage.scratch import FULL

_PARTIAL, _PARTS = ".partial", ".parts/"
_RACES = 100
"""Max retries when a concurrent deletion removes the folder in which a file is about to be created."""


class FolderStore:
    """Object store in a folder. An object is written to a temporary file, which is renamed when it is complete, so that
    readers never see a part of an object."""

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()

    def put(self, key: str, data: bytes) -> StoredObject:
        path = self._path(key)
        with _Guard(), _Partial(path) as file:
            file.write(data)
        return StoredObject(key, hashlib.sha256(data).hexdigest(), len(data))

    def put_file(self, key: str, file: IO[bytes]) -> StoredObject:
        sha256, size = file_digest(file)
        with _Guard(), _Partial(self._path(key)) as target:
            shutil.copyfileobj(file, target, CHUNK)
        return StoredObject(key, sha256, size)

    def get(self, key: str, sha256: str | None = None) -> bytes:
        with _Guard(reading=key):
            data = self._path(key).read_bytes()
        verify(key, hashlib.sha256(data).hexdigest(), sha256)
        return data

    def download(self, key: str, path: Path, sha256: str | None = None) -> None:
        copy_out(key, self.open(key), path, sha256)

    def delete(self, keys: Sequence[str]) -> None:
        with _Guard():
            for key in keys:
                path = self._path(key)
                path.unlink(missing_ok=True)
                self._remove_empty(path)

    def _remove_empty(self, path: Path) -> None:
        for parent in path.parents:
            if parent == self.root:
                return
            try:
                parent.rmdir()
            except OSError as error:
                if error.errno not in {errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT, errno.ENOTDIR}:
                    raise
                return

    def list(self, prefix: str) -> list[str]:
        return [key for key in self._keys(prefix) if not key.endswith(_PARTIAL) and _PARTS not in key]

    def page(self, prefix: str, after: str, limit: int) -> Sequence[ListedObject]:
        keys = [key for key in self._keys(prefix) if key > after][:limit]
        with _Guard():
            now = self._now()
        stats = ((key, _stat(self._path(key))) for key in keys)
        return [
            ListedObject(key, now - stat.st_mtime if stat else 0.0, stat.st_size if stat else 0) for key, stat in stats
        ]

    def _now(self) -> float:
        """Returns the current time of the file system's clock, which sets the modification times of files. Another
        host, with another clock, may serve the file system."""
        self.root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=self.root) as probe:
            return os.fstat(probe.fileno()).st_mtime

    def open(self, key: str) -> IO[bytes]:
        with _Guard(reading=key):
            return io.BufferedReader(_GuardedFile(self._path(key)), CHUNK)

    def begin_parts(self, key: str) -> str:
        return ""

    def part_url(self, key: str, upload: str, number: int, size: int, seconds: int) -> str | None:
        return None

    def put_part(self, key: str, upload: str, number: int, file: IO[bytes]) -> Part:
        etag, size = file_digest(file)
        numbered = f"{key}{_PARTS}{number:05}."
        with _Guard(), _Partial(self._path(numbered + etag)) as target:
            shutil.copyfileobj(file, target, CHUNK)
        self.delete([path for path in self._part_keys(key) if path.startswith(numbered) and not path.endswith(etag)])
        return Part(number, size, etag)

    def parts(self, key: str, upload: str) -> Sequence[Part]:
        stored = []
        for path in self._part_keys(key):
            number, _, etag = path.rpartition(_PARTS)[2].partition(".")
            if (stat := _stat(self._path(path))) is not None:
                stored.append(Part(int(number), stat.st_size, etag))
        return stored

    def join_parts(self, key: str, upload: str, parts: Sequence[Part]) -> None:
        with _Guard(reading=key), _Partial(self._path(key)) as target:
            for part in parts:
                with self._path(f"{key}{_PARTS}{part.number:05}.{part.etag}").open("rb") as file:
                    shutil.copyfileobj(file, target, CHUNK)
        self.drop_upload(key, upload)

    def drop_upload(self, key: str, upload: str) -> None:
        self.delete(self._keys(f"{key}{_PARTS}"))

    def drop_parts(self, prefix: str, older_than_seconds: float, held: Container[str] = ()) -> int:
        return 0

    def _part_keys(self, key: str) -> Sequence[str]:
        return [path for path in self._keys(f"{key}{_PARTS}") if not path.endswith(_PARTIAL)]

    def _keys(self, prefix: str) -> Sequence[str]:
        start = self._path(prefix)
        folder = start if start.is_dir() else start.parent
        files = (path.relative_to(self.root).as_posix() for path in folder.rglob("*") if path.is_file())
        return sorted(key for key in files if key.startswith(prefix))

    def check(self) -> None:
        with _Guard():
            self.root.mkdir(parents=True, exist_ok=True)
            if not os.access(self.root, os.W_OK):
                raise unusable(f"{self.root} cannot be written")

    def _path(self, key: str) -> Path:
        path = (self.root / key).resolve()
        if not path.is_relative_to(self.root):
            raise ValueError(f"key outside of the store: {key}")
        return path


def _stat(path: Path) -> os.stat_result | None:
    """Returns the file's status; None if the file has been deleted."""
    try:
        return path.stat()
    except FileNotFoundError:
        return None


class _GuardedFile(io.FileIO):
    """File that raises StorageUnavailable for read errors of the operating system."""

    def readinto(self, buffer: Any) -> int | None:
        with _Guard():
            return super().readinto(buffer)

    def readall(self) -> bytes:
        with _Guard():
            return super().readall()


class _Partial:
    """Temporary file next to a target file. At the end of the `with` block it replaces the target atomically; on an
    error it is deleted."""

    def __init__(self, target: Path) -> None:
        self.target = target
        self.partial = target.with_name(f"{target.name}.{uuid.uuid4().hex}{_PARTIAL}")

    def __enter__(self) -> IO[bytes]:
        """Creates the temporary file and its folder. Tries again when a concurrent deletion removes the empty folder,
        or a folder above it, before the file is created. Raises OSError."""
        for is_last in [False] * _RACES + [True]:
            try:
                self.target.parent.mkdir(parents=True, exist_ok=True)
                self.file = self.partial.open("wb")
                break
            except (FileNotFoundError, FileExistsError):  # FileExistsError: mkdir saw the folder before its removal
                if is_last:
                    raise
        return self.file

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        try:
            self.file.flush()
            os.fsync(self.file.fileno())
            self.file.close()
            if kind is None:
                self.partial.replace(self.target)
        finally:
            with suppress(OSError):  # on a full disk, `close` flushes and fails again
                self.file.close()
            self.partial.unlink(missing_ok=True)


class _Guard:
    """Context manager that converts errors of the operating system to StorageUnavailable. When the block reads the
    object with the key `reading`, a missing file raises NotFound."""

    def __init__(self, reading: str | None = None) -> None:
        self.reading = reading

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if self.reading is not None and isinstance(error, FileNotFoundError | IsADirectoryError | NotADirectoryError):
            raise missing(self.reading) from error
        if isinstance(error, OSError):
            raise unusable(error.strerror or str(error), kind="full" if error.errno in FULL else "away") from error
