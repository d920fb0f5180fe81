"""Errors of the device, classified in one place: memory that ran out, and a device that is lost.

Memory that ran out is a matter of one computation: a smaller one, or a later one, may fit. A lost device answers every
later call with an error too (a CUDA context does not survive an illegal access), so that no work may be blamed for it.
"""

import gc
import threading
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

import torch
from torch import Tensor

from core.artifact.errors import DeviceLost

Result = TypeVar("Result")

memory_lock = threading.Lock()
"""Held while a CUDA graph is captured, when memory cannot be returned to the device."""
MEMORY_TRIES = 3
MEMORY_PAUSE_SECONDS = 0.5
"""Between two tries: other threads of the process give memory back when their computations end."""

_OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "_ALLOC_FAILED", "Unable to allocate")
_LOST = (
    "CUDA error",
    "CUDA driver error",
    "cuDNN error",
    "CUDNN_STATUS",
    "CUBLAS_STATUS",
    "cuBLAS error",
    "CUSOLVER_STATUS",
    "NCCL error",
    "ncclUnhandledCudaError",
    "HIP error",
    "illegal memory access",
    "device-side assert",
    "uncorrectable ECC",
    "unspecified launch failure",
    "misaligned address",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the computation did not fit into memory, the device's or the host's."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _OUT_OF_MEMORY)


def is_lost(error: BaseException) -> bool:
    """Returns whether the device, not the computation, is at fault. Checks the causes of the error too.

    Only texts of RuntimeError count, which torch raises, so that text from a tenant cannot end a worker.
    """
    return any(_is_lost(link) for link in causes(error))


def release_memory() -> None:
    """Returns cached memory to the device. Call it outside of `except`: a traceback holds its tensors."""
    gc.collect()
    if torch.cuda.is_available():
        with memory_lock:
            torch.cuda.empty_cache()


def use_device(device: torch.device) -> None:
    """Makes `device` the current one of this thread. Triton's kernels run on it, whatever their tensors' device is."""
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)


def pinned(tensor: Tensor, device: torch.device) -> Tensor:
    """A host's tensor, in memory from which a copy to `device` does not keep the host waiting."""
    return tensor.pin_memory() if device.type == "cuda" else tensor


def with_memory(compute: Callable[[], Result]) -> Result:
    """Runs `compute`, and again after a pause when memory ran out. It must leave nothing half done when it raises.

    Raises DeviceLost when memory ran out `MEMORY_TRIES` times, and whatever else `compute` raises.
    """
    reason = ""
    for tries_left in reversed(range(MEMORY_TRIES)):
        try:
            return compute()
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            reason = f"{type(error).__name__}: {error}"
        release_memory()
        if tries_left:
            time.sleep(MEMORY_PAUSE_SECONDS)
    raise DeviceLost(f"memory ran out {MEMORY_TRIES} times, {reason}")


def check_device(device: torch.device) -> None:
    """Makes the device compute something small and compares the result. Raises DeviceLost when it cannot."""
    try:
        ones = torch.ones(16, 16, device=device)
        total = (ones @ ones).sum().item()
    except RuntimeError as error:
        raise DeviceLost(f"{type(error).__name__}: {error}") from error
    if total != 16**3:
        raise DeviceLost(f"it computes {total} where {16**3} is right")


def _is_lost(error: BaseException) -> bool:
    if isinstance(error, DeviceLost):
        return True
    if not isinstance(error, RuntimeError) or is_out_of_memory(error):
        return False
    return isinstance(error, torch.AcceleratorError) or any(words in str(error) for words in _LOST)


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error, and those that led to it, latest first."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
