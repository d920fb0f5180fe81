"""Classification of device errors: a lost device, or only a lack of memory."""

import pytest
import torch

from core.artifact.errors import ArtifactInvalid, DeviceLost, InvalidRequest
from core.ml.model import device
from core.ml.model.device import check_device, find_device, is_lost, is_out_of_memory, with_memory

LOST: list[Exception] = [
    torch.AcceleratorError("CUDA error: an illegal memory access was encountered"),
    torch.AcceleratorError("anything"),
    RuntimeError("CUDA error: uncorrectable ECC error encountered"),
    RuntimeError("CUDA error: device-side assert triggered\nCompile with `TORCH_USE_CUDA_DSA`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
    RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasGemmEx`"),
    RuntimeError("NCCL error in: ProcessGroupNCCL.cpp, unhandled cuda error"),
    RuntimeError("CUDA error: unspecified launch failure"),
    DeviceLost("it hangs"),
]
OUT_OF_MEMORY: list[Exception] = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    torch.AcceleratorError("CUDA error: out of memory"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("GET was unable to find an engine to execute this computation"),
    RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
    RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory: you tried 9 bytes"),
    MemoryError(),
]
OWN: list[Exception] = [
    RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
    ArtifactInvalid("the class 'CUDA error: out of memory' is not there"),
    ValueError("CUDA error: a tenant wrote this"),
    ZeroDivisionError(),
]


@pytest.mark.parametrize("error", LOST, ids=str)
def test_device_errors_mean_a_lost_device(error: Exception) -> None:
    assert is_lost(error)
    assert not is_out_of_memory(error)


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=repr)
def test_out_of_memory_is_not_a_lost_device(error: Exception) -> None:
    assert is_out_of_memory(error)
    assert not is_lost(error)


@pytest.mark.parametrize("error", OWN, ids=repr)
def test_error_of_a_computation_is_not_a_device_error(error: Exception) -> None:
    assert not is_lost(error)
    assert not is_out_of_memory(error)


def test_lost_device_is_recognized_in_the_cause_of_another_error() -> None:
    wrapped = ValueError("a wrapper's")
    wrapped.__cause__ = LOST[0]
    handling = ValueError("a handler's")
    handling.__context__ = LOST[0]
    assert is_lost(wrapped)
    assert is_lost(handling)


def test_computation_is_repeated_after_out_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "MEMORY_PAUSE_SECONDS", 0)
    errors = OUT_OF_MEMORY[:2]

    def compute() -> str:
        if errors:
            raise errors.pop()
        return "done"

    assert with_memory(compute) == "done"


def test_repeated_out_of_memory_means_a_lost_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "MEMORY_PAUSE_SECONDS", 0)
    attempts = []

    def compute() -> None:
        attempts.append(1)
        raise OUT_OF_MEMORY[0]

    with pytest.raises(DeviceLost, match="Tried to allocate"):
        with_memory(compute)
    assert len(attempts) == device.MEMORY_TRIES


def test_other_errors_are_not_retried() -> None:
    with pytest.raises(ZeroDivisionError):
        with_memory(lambda: 1 / 0)


def test_device_is_checked_by_a_small_computation(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    check_device(cpu)
    with monkeypatch.context() as patch:
        patch.setattr(torch, "ones", lambda *_, **__: torch.zeros(16, 16))
        with pytest.raises(DeviceLost, match="where 4096 is right"):
            check_device(cpu)

    def lost(*_: object, **__: object) -> None:
        raise LOST[2]

    monkeypatch.setattr(torch, "ones", lost)
    with pytest.raises(DeviceLost, match="ECC"):
        check_device(cpu)


def test_device_auto_is_a_gpu_if_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for count, device_type in ((0, "cpu"), (2, "cuda")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda count=count: bool(count))
        monkeypatch.setattr(torch.cuda, "device_count", lambda count=count: count)
        assert find_device("auto").type == device_type
    assert find_device("cuda:1") == torch.device("cuda:1")


def test_missing_device_is_rejected_with_advice(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidRequest, match="'gpu' is no device"):
        find_device("gpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InvalidRequest, match=r"no 'cuda', since torch finds no GPUs\. Check nvidia-smi, the driver"):
        find_device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(InvalidRequest, match="no 'cuda:1', since torch finds 1 GPUs"):
        find_device("cuda:1")
