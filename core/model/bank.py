"""The adapter bank: folded adapters in a table on the device, and more of them in a cache on the host.

Slots are allocated once and written by index; activation is one copy. Slot 0 is the base itself.
"""

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from core.artifact.sites import CLASS_TABLE
from core.model.dit import DiT
from core.model.folding import VectorLayout, fold

BASE_SLOT = 0


@dataclass(frozen=True)
class FoldedAdapter:
    """An adapter on the host: its vectors [P] and its class table [classes + 1, D], the null class last."""

    vectors: Tensor
    classes: Tensor

    @property
    def size(self) -> int:
        return self.vectors.nbytes + self.classes.nbytes


class AdapterBank:
    """Adapters by digest. A slot in use by a row in flight is pinned and never given away."""

    def __init__(self, dit: DiT, slots: int, host_bytes: int) -> None:
        self.dit = dit
        self.host_bytes = host_bytes
        self.table = torch.zeros(slots + 1, VectorLayout(dit.config).length, device=dit.positions.device)
        self.table[BASE_SLOT] = fold(dit, {})
        self.table = self.table.to(dit.positions.dtype)
        self._base_classes = dit.y_embedder.embedding_table.weight.detach()
        self._host: OrderedDict[str, FoldedAdapter] = OrderedDict()
        self._slots: OrderedDict[str, int] = OrderedDict()  # least recently used first
        self._pins: dict[str, int] = {}
        self._free = list(range(slots, 0, -1))

    def __contains__(self, digest: str) -> bool:
        return digest in self._host

    @property
    def resident(self) -> list[str]:
        """Digests in the device table, least recently used first."""
        return list(self._slots)

    def add(self, digest: str, tensors: Mapping[str, Tensor]) -> None:
        """Folds an adapter into the host cache. What no row in flight uses may leave it for lack of room."""
        device = self.dit.positions.device
        on_device = {name: tensor.to(device) for name, tensor in tensors.items()}
        dtype = self.table.dtype
        vectors = fold(self.dit, on_device).to(dtype).cpu()
        self._host[digest] = FoldedAdapter(vectors, tensors[CLASS_TABLE].to(dtype).cpu())
        self._host.move_to_end(digest)
        total = sum(adapter.size for adapter in self._host.values())
        for old in [old for old in self._host if old != digest and not self._pins.get(old)]:
            if total <= self.host_bytes:
                break
            total -= self._host.pop(old).size

    def pin(self, digest: str | None) -> int | None:
        """The slot of an adapter in the host cache, for one more row in flight; None when every slot is pinned.

        The vectors are written before the slot is published. Raises KeyError for an adapter that was not added.
        """
        if digest is None:
            return BASE_SLOT
        if digest not in self._slots:
            slot = self._take_slot()
            if slot is None:
                return None
            self.table[slot].copy_(self._host[digest].vectors, non_blocking=True)
            self._slots[digest] = slot
        self._slots.move_to_end(digest)
        if digest in self._host:
            self._host.move_to_end(digest)
        self._pins[digest] = self._pins.get(digest, 0) + 1
        return self._slots[digest]

    def unpin(self, digest: str | None) -> None:
        if digest is None:
            return
        self._pins[digest] -= 1
        if not self._pins[digest]:
            del self._pins[digest]

    def classes(self, digest: str | None, class_id: int) -> Tensor:
        """The embedding of a class and of the null class, [2, D] on the device.

        Raises IndexError when the adapter has no such class.
        """
        table = self._base_classes if digest is None else self._host[digest].classes
        if not 0 <= class_id < len(table) - 1:
            raise IndexError(f"class {class_id} of {len(table) - 1}")
        return table[[class_id, len(table) - 1]].to(self.table.device)

    def forget(self, digest: str) -> None:
        """Drops an adapter that was deleted, unless a row in flight still uses it."""
        if self._pins.get(digest):
            return
        self._host.pop(digest, None)
        if digest in self._slots:
            self._free.append(self._slots.pop(digest))

    def _take_slot(self) -> int | None:
        if self._free:
            return self._free.pop()
        for digest in self._slots:
            if not self._pins.get(digest):
                return self._slots.pop(digest)
        return None
