"""Cache of adapters in host memory, by the adapter file's digest, with threads that load missing adapters. The adapters
are folded: converted into vectors, as `core.ml.model.folding` describes."""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor

from torch import Tensor

from core.artifact.errors import ArtifactInvalid, BaseMismatch, ChecksumMismatch, CoreError, NotFound
from core.ml.model.bank import AdapterBank, FoldedAdapter
from core.ml.model.device import with_memory

Load = Callable[[], Mapping[str, Tensor]]
"""Hashable function that fetches and checks one adapter and returns its tensors. It may be slow and may raise any
exception. Functions that compare equal read the same file, so that callers share its load and its failure; several
owners may have files of their own with the same digest."""

BROKEN = (ArtifactInvalid, BaseMismatch, ChecksumMismatch, NotFound)
"""Errors of loading an adapter that a retry would not fix."""


class AdapterCache:
    """Cache of up to `host_bytes` of folded adapters. Evicts the least recently used adapter first. Thread-safe.

    A file that turned out to be broken is not loaded again for `quarantine_seconds`: its requests fail at once with the
    same error, so that a long queue of requests does not fetch a broken file again and again. Requests that load the
    same adapter from another file are not affected.
    """

    def __init__(
        self, bank: AdapterBank, host_bytes: int, *, threads: int = 4, quarantine_seconds: float = 60.0
    ) -> None:
        self.bank, self.host_bytes, self.quarantine_seconds = bank, host_bytes, quarantine_seconds
        self.hits = self.misses = 0
        self.load_seconds = 0.0
        self._lock = threading.Lock()
        self._folded: OrderedDict[str, FoldedAdapter] = OrderedDict()
        self.bytes = 0
        """Bytes of host memory that the cached adapters take."""
        self._loading: dict[Load, tuple[str, Future[FoldedAdapter]]] = {}
        """Digest and future of each load in progress."""
        self._broken: dict[Load, tuple[float, Exception]] = {}
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="adapters")

    @property
    def resident(self) -> list[str]:
        """Digests of the cached adapters, least recently used first."""
        with self._lock:
            return list(self._folded)

    @property
    def loading(self) -> list[str]:
        """Digests of the adapters that are being loaded."""
        with self._lock:
            return [digest for digest, _ in self._loading.values()]

    def get(self, digest: str, load: Load) -> "Future[FoldedAdapter]":
        """Returns a future of the adapter with this digest. It is already resolved if the adapter is cached. Otherwise
        `load` runs on a thread of the cache, once for all callers that wait for the same file. The future fails with
        the exception that `load` raised."""
        resolved: Future[FoldedAdapter] = Future()
        with self._lock:
            if digest in self._folded:
                self.hits += 1
                self._folded.move_to_end(digest)
                resolved.set_result(self._folded[digest])
                return resolved
            self._drop_expired()
            if load in self._broken:
                resolved.set_exception(self._broken[load][1])
                return resolved
            if load not in self._loading:
                self.misses += 1
                self._loading[load] = digest, self._pool.submit(self._load, digest, load)
            return self._loading[load][1]

    def is_broken(self, load: Load) -> bool:
        """Returns whether the latest load of a file failed in a way that a retry would not fix. `load` is the function
        that loads it."""
        with self._lock:
            return load in self._broken

    def forget(self, digest: str) -> None:
        """Removes a deleted adapter from the cache. Images that are being generated with it keep their own reference to
        it."""
        with self._lock:
            gone = self._folded.pop(digest, None)
            self.bytes -= self.bank.host_bytes(gone) if gone else 0

    def close(self, *, wait: bool = True) -> None:
        """Ends the loading threads, and waits for loads in progress if `wait` is true."""
        self._pool.shutdown(wait=wait, cancel_futures=True)

    def _load(self, digest: str, load: Load) -> FoldedAdapter:
        started = time.perf_counter()
        try:
            tensors = load()
            folded = with_memory(lambda: self.bank.fold(digest, tensors))
        except BROKEN as error:
            with self._lock:
                self._drop_expired()
                self._broken[load] = time.monotonic() + self.quarantine_seconds, _bare_copy(error)
            raise
        else:
            with self._lock:
                if digest in self._folded:  # loaded from another file meanwhile
                    return self._folded[digest]
                self._folded[digest] = folded
                self.bytes += self.bank.host_bytes(folded)
                while self.bytes > self.host_bytes and len(self._folded) > 1:
                    self.bytes -= self.bank.host_bytes(self._folded.popitem(last=False)[1])
            return folded
        finally:
            with self._lock:
                del self._loading[load]
                self.load_seconds += time.perf_counter() - started

    def _drop_expired(self) -> None:
        now = time.monotonic()
        self._broken = {load: entry for load, entry in self._broken.items() if now < entry[0]}


def own_copy(error: CoreError) -> CoreError:
    """Returns a copy of `error`, so that each of several requests that fail with the same error raises its own object:
    raising an exception changes its traceback."""
    copy = type(error).__new__(type(error), *error.args)
    copy.__dict__.update(error.__dict__)
    copy.__cause__ = error.__cause__ or error.__context__
    return copy


def _bare_copy(error: CoreError) -> CoreError:
    """Returns a copy of `error` without traceback and cause, whose frames would keep the file's bytes and its decoded
    tensors in memory."""
    copy = own_copy(error)
    copy.__cause__ = None
    return copy
