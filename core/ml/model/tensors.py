"""Converts torch tensors to the form in which they are stored and hashed."""

import torch
from torch import Tensor

from core.artifact.base import StoredTensor

_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
}


def stored_tensor(name: str, tensor: Tensor) -> StoredTensor:
    """Returns a tensor's name, dtype, shape and bytes for a digest. The bytes are a view of the tensor, copied only if
    it is on another device than the CPU or not contiguous."""
    flat = tensor.detach().cpu().contiguous().view(-1).view(torch.uint8)
    return StoredTensor(name, _DTYPES[tensor.dtype], tuple(tensor.shape), flat.numpy().data)
