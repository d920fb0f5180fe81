"""Classifies errors of the device in one place: out of memory, and a lost device.

Out of memory concerns one computation: a smaller one may fit, or the same one later. A lost device answers every later
call with an error too (a CUDA context does not survive an illegal access), so the error must not be blamed on the job
that was running.
"""

import gc
import threading
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

import torch
from torch import Tensor

from core.artifact.errors import DeviceLost, InvalidRequest

Result = TypeVar("Result")

memory_lock = threading.Lock()
"""Lock held while a CUDA graph is captured, since memory cannot be returned to the device meanwhile."""
MEMORY_TRIES = 3
MEMORY_PAUSE_SECONDS = 0.5
"""Pause between two tries, in which other threads of the process may end their computations and free memory."""

_DEVICE_FIELDS = "DIFFFIT_DEVICE or --device"
_OUT_OF_MEMORY = (
    "out of memory",
    "can't allocate memory",
    "_ALLOC_FAILED",
    "ALLOCATION_FAILED",
    "Unable to allocate",
    "unable to find an engine",  # torch skips each cuDNN engine for whose workspace memory ran out, until none is left
)
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
    """Returns whether an error means that a computation did not fit into the memory of the device or of the host."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _OUT_OF_MEMORY)


def is_lost(error: BaseException) -> bool:
    """Returns whether an error means that the device, not the computation, is at fault. Checks the causes of the error
    too.

    Searches only the messages of RuntimeError, which torch raises, so that a tenant's text in another error cannot end
    a worker.
    """
    return any(_is_lost(link) for link in causes(error))


def release_memory() -> None:
    """Returns cached memory to the device. Call it outside of `except`: a traceback keeps the tensors of its frames
    alive."""
    gc.collect()
    if torch.cuda.is_available():
        with memory_lock:
            torch.cuda.empty_cache()


def find_device(name: str) -> torch.device:
    """Returns the device `name`: `cpu`, `cuda`, `cuda:1`, or `auto` for a GPU if there is one. Raises InvalidRequest if
    there is no such device."""
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        return torch.device("cuda" if gpus else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise InvalidRequest(_DEVICE_FIELDS, f"'{name}' is no device. Use auto, cpu, cuda, or cuda:1.") from None
    if device.type == "cuda" and (device.index or 0) >= gpus:
        reason = f"there is no '{name}', since torch finds {gpus or 'no'} GPUs."
        raise InvalidRequest(_DEVICE_FIELDS, f"{reason} Check nvidia-smi, the driver and the torch build.")
    return device


def use_device(device: torch.device) -> None:
    """Makes `device` the current one of this thread. Triton's kernels run on the current device, whatever device their
    tensors are on."""
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)


def has_fp8(device: torch.device) -> bool:
    """Returns whether the device multiplies matrices in fp8 with a scale per row."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 9)


def pinned(tensor: Tensor, device: torch.device) -> Tensor:
    """Returns a host tensor in pinned memory, from which a copy to `device` does not block the host. Returns the tensor
    itself if `device` is not a GPU."""
    return tensor.pin_memory() if device.type == "cuda" else tensor


def pinned_bytes(size: int) -> int:
    """Returns the bytes of host memory that torch allocates for `size` bytes of pinned memory: the next power of
    two."""
    return 1 << (size - 1).bit_length()


def with_memory(compute: Callable[[], Result]) -> Result:
    """Runs `compute`, and retries it after a pause if memory ran out. `compute` must leave nothing half done when it
    raises.

    Raises DeviceLost if memory ran out `MEMORY_TRIES` times, and any other error of `compute`.
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
    """Checks that the device computes a small matrix product correctly. Raises DeviceLost if it does not."""
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
    """Yields an error and the errors that led to it, latest first."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
