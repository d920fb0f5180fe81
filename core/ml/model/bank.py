"""The adapter bank: a table on the device whose slots hold folded adapters.

The table is allocated once; an adapter gets onto the device by one copy into a slot. Slot 0 is the base itself.
"""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from core.artifact.sites import CLASS_TABLE, split_guided
from core.ml.model.device import pinned, pinned_bytes
from core.ml.model.dit import DiT
from core.ml.model.folding import VectorLayout, fold, fp8_weights

BASE_SLOT = 0
Key = tuple[tuple[str, ...], float, float]
"""Digests of one or two adapters, weight of the second, and scale: what determines the vectors in a slot."""


@dataclass(frozen=True, eq=False)
class FoldedAdapter:
    """A folded adapter in host memory. Holding a reference keeps it usable after it was evicted from the caches."""

    digest: str
    vectors: Tensor
    """[P] the vectors that `core.ml.model.folding.fold` computes"""
    classes: Tensor
    """[classes + 1, D] the class table, with the null class last"""
    guided: "FoldedAdapter | None" = None
    """Adapter that predicts guided noise, if the adapter has learned guidance."""
    scale: float = 1.0
    """Strength of the adapter: 0 is the base, 1 the adapter, and other values interpolate or extrapolate linearly."""
    other: "FoldedAdapter | None" = None
    """Adapter that is mixed into this one; None for none."""
    weight: float = 0.0
    """Weight of `other`: 0 is this adapter, 1 the other, and values between interpolate linearly."""

    def at(self, scale: float) -> "FoldedAdapter | None":
        """Returns this adapter at another scale, with the same tensors. Returns None, which stands for the base, at a
        scale of 0."""
        return replace(self, scale=scale) if scale else None

    def mixed(self, other: "FoldedAdapter", weight: float) -> "FoldedAdapter":
        """Returns this adapter mixed with another one. The bank computes the mix when it fills a slot."""
        return replace(self, other=other, weight=weight) if weight else self

    def guided_at(self, weight: float) -> "FoldedAdapter":
        """Returns this adapter with learned guidance: without guidance at a weight of 0, and at its highest guidance
        scale at a weight of 1. An adapter that has learned none is returned unchanged."""
        return self if self.guided is None else self.mixed(self.guided, weight)

    @property
    def key(self) -> Key:
        """Key of the adapter's slot in the bank: each scale of an adapter and each mix has its own slot."""
        digests = (self.digest,) if self.other is None else (self.digest, self.other.digest)
        return digests, self.weight, self.scale


class AdapterBank:
    """The table of folded adapters on the device, [slots + 1, P] in the base's dtype, with LRU eviction. Only one
    thread may call `activate` and `forget`; any thread may call the rest. With `fp8`, it also holds weights of the base
    in fp8."""

    def __init__(self, dit: DiT, slots: int, *, fp8: bool = False) -> None:
        self.dit, self.slots = dit, slots
        self.fp8 = fp8_weights(dit) if fp8 else {}
        self.device, self.dtype = dit.positions.device, dit.positions.dtype
        self.table = torch.zeros(slots + 1, VectorLayout(dit.config).length, dtype=self.dtype, device=self.device)
        self.table[BASE_SLOT] = fold(dit, {})
        self.copies = 0
        self._base_classes = dit.y_embedder.embedding_table.weight.detach()
        self._resident: OrderedDict[Key, int] = OrderedDict()  # least recently used first
        self._free = list(range(slots, 0, -1))
        self._stream = torch.cuda.Stream(self.device) if self.device.type == "cuda" else None
        """CUDA stream for folding. On the stream of the sampling steps, each of an adapter's hundreds of tensors would
        wait for a step. The bank creates its stream only once: CUDA has few streams, and a new one could be the stream
        on which a graph is being captured."""

    @property
    def resident(self) -> list[str]:
        """Digests of the adapters in the device table, least recently used first."""
        # Another thread may change the table meanwhile. `list` copies the keys without releasing Python's lock.
        return list(dict.fromkeys(digest for digests, _, _ in list(self._resident) for digest in digests))

    def fold(self, digest: str, tensors: Mapping[str, Tensor]) -> FoldedAdapter:
        """Combines an adapter's tensors with the base's into vectors, on the device, and copies the vectors to the
        host."""
        own, guided = split_guided(tensors)
        with torch.no_grad(), torch.cuda.stream(self._stream):
            on_device = {name: tensor.to(self.device) for name, tensor in own.items()}
            vectors = fold(self.dit, on_device).to(self.dtype).cpu()
        classes = own[CLASS_TABLE].to(self.dtype).cpu()
        return FoldedAdapter(
            digest,
            pinned(vectors, self.device),
            pinned(classes, self.device),
            guided=self.fold(digest, guided) if guided else None,
        )

    def host_bytes(self, adapter: FoldedAdapter) -> int:
        """Returns the bytes of host memory that a folded adapter takes."""
        sizes = [adapter.vectors.nbytes, adapter.classes.nbytes]
        own = sum(map(pinned_bytes, sizes) if self.device.type == "cuda" else sizes)
        return own + (0 if adapter.guided is None else self.host_bytes(adapter.guided))

    def activate(self, adapters: Sequence[FoldedAdapter | None]) -> list[int]:
        """Returns the table slots of the adapters in one step, after copying the missing adapters into the table; None
        is the base. Evicts other adapters, least recently used first, never one that this step needs.

        Raises ValueError if one step has more adapters than there are slots.
        """
        wanted = {adapter.key: adapter for adapter in adapters if adapter is not None}
        if len(wanted) > self.slots:
            raise ValueError(f"{len(wanted)} adapters in one step, but {self.slots} slots")
        for key in wanted:
            if key in self._resident:
                self._resident.move_to_end(key)
        for key, adapter in wanted.items():
            if key not in self._resident:
                if not self._free:
                    self._free.append(self._resident.popitem(last=False)[1])
                self._write(self._free[-1], adapter)  # a failed copy leaves the slot free
                self._resident[key] = self._free.pop()
                self.copies += 1
        return [BASE_SLOT if adapter is None else self._resident[adapter.key] for adapter in adapters]

    def _write(self, slot: int, adapter: FoldedAdapter) -> None:
        row = vectors = self.table[slot].copy_(adapter.vectors, non_blocking=True)
        if adapter.other is not None:
            other = adapter.other.vectors.to(self.device, non_blocking=True)
            vectors = _between(vectors, other, adapter.weight)
        if adapter.scale != 1.0:
            vectors = _between(self.table[BASE_SLOT], vectors, adapter.scale)
        row.copy_(vectors)

    def classes(
        self,
        adapter: FoldedAdapter | None,
        class_id: int,
        *,
        other_class: int = 0,
        scale: float = 1.0,
        null_scale: float = 1.0,
        base_class: int | None = None,
    ) -> Tensor:
        """Returns the embeddings of a class and of the null class, [2, D] on the device. An adapter of None is the
        base.

        `other_class` is the class of the same name in the adapter that is mixed into this one. `scale` interpolates the
        class's embedding between the base's (0) and the adapter's (1), `null_scale` that of the null class.
        `base_class` is the base's class of the same name; None takes the base's null class instead. Raises IndexError
        if an adapter has no such class.
        """
        base = self._base_classes
        if adapter is None:
            return _class_rows(base, class_id)
        rows = self._on_device(_class_rows(adapter.classes, class_id))
        if adapter.other is not None:
            rows = _between(rows, self._on_device(_class_rows(adapter.other.classes, other_class)), adapter.weight)
        if scale != 1.0:
            rows[0] = _between(base[-1 if base_class is None else base_class], rows[0], scale)
        if null_scale != 1.0:
            rows[1] = _between(base[-1], rows[1], null_scale)
        return rows.to(self.dtype)

    def _on_device(self, rows: Tensor) -> Tensor:
        return pinned(rows, self.device).to(self.device, non_blocking=True)

    def forget(self, digest: str) -> None:
        """Frees the slots of a deleted adapter, at all scales and in all mixes, and overwrites them with zeros."""
        for key in [key for key in self._resident if digest in key[0]]:
            self.table[self._resident[key]].zero_()
            self._free.append(self._resident.pop(key))


def _class_rows(table: Tensor, class_id: int) -> Tensor:
    """Returns the rows of a class and of the null class, [2, D]. Raises IndexError if the table has no such class."""
    if not 0 <= class_id < len(table) - 1:
        raise IndexError(f"class {class_id} of {len(table) - 1}")
    return table[[class_id, len(table) - 1]]


def _between(base: Tensor, adapted: Tensor, scale: float) -> Tensor:
    """Returns base + scale (adapted - base) in fp32: `base` at a scale of 0, `adapted` at 1, both exactly."""
    return torch.lerp(base.float(), adapted.float(), scale)
