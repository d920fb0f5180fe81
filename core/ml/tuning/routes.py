"""Routes: the two ways to compute the model's output with an adapter's tensors. `route_of` chooses one of them.

The tensors of DiffFit and BitFit can be folded into one vector for each batch row, so rows of several adapters can pass
the model together. The other methods (full, LoRA, AdaptFormer, VPT) call `dit(x, t, y, adapter)` with one adapter.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from core.artifact.sites import CLASS_TABLE, folds
from core.ml.diffusion.sampling import Model
from core.ml.model.adapter import BASE, Adapter
from core.ml.model.dit import DiT
from core.ml.model.folding import fold, folded_forward

MakeAdapter = Callable[[Mapping[str, Tensor]], Adapter]
AdapterRows = tuple[Mapping[str, Tensor], int | None]
"""An adapter's tensors, and the number of batch rows that use the adapter; None for all rows."""


class Route(ABC):
    """Computes the outputs of one base model with adapters of one fine-tuning method."""

    shares: bool
    """Whether rows of several adapters can pass the model together."""

    def __init__(self, dit: DiT) -> None:
        self.dit = dit

    def model(self, tensors: Mapping[str, Tensor]) -> Model:
        """Returns the base with one adapter as a function of x, t and y. Empty `tensors` give the base itself.
        Gradients flow to the tensors."""
        return self.joint_model([(tensors, None)])

    @abstractmethod
    def joint_model(self, adapters: Sequence[AdapterRows]) -> Model:
        """Returns the base with several adapters as a function of x, t and y. The first adapter applies to the first
        rows of the batch, the second adapter to the rows that follow, and so forth."""


class FoldedRoute(Route):
    """Route that folds each adapter into a vector, and passes each row's vector and class embedding to the model."""

    shares = True

    def joint_model(self, adapters: Sequence[AdapterRows]) -> Model:
        base_table = self.dit.y_embedder.embedding_table.weight
        tables = [tensors.get(CLASS_TABLE, base_table) for tensors, _ in adapters]
        folded = [fold(self.dit, tensors) for tensors, _ in adapters]

        def model(x: Tensor, t: Tensor, y: Tensor) -> Tensor:
            labels = y.split([len(y) if rows is None else rows for _, rows in adapters])
            classes = _joined(F.embedding(some, table) for some, table in zip(labels, tables, strict=True))
            vectors = _joined(one.expand(len(some), -1) for some, one in zip(labels, folded, strict=True))
            return folded_forward(self.dit, x, t, classes, vectors)

        return model


class ReferenceRoute(Route):
    """Forward pass by `dit(x, t, y, adapter)`, for fine-tuning methods whose adapters cannot be folded into vectors."""

    shares = False

    def __init__(self, dit: DiT, make_adapter: MakeAdapter) -> None:
        super().__init__(dit)
        self._make_adapter = make_adapter

    def joint_model(self, adapters: Sequence[AdapterRows]) -> Model:
        ((tensors, _),) = adapters
        adapter = self._make_adapter(tensors) if tensors else BASE
        return lambda x, t, y: self.dit(x, t, y, adapter)


def route_of(dit: DiT, names: Iterable[str], make_adapter: MakeAdapter) -> Route:
    """Returns the route for an adapter whose tensors have these names."""
    if folds(dit.config, names):
        return FoldedRoute(dit)
    return ReferenceRoute(dit, make_adapter)


def _joined(parts: Iterable[Tensor]) -> Tensor:
    """Concatenates the parts to [B, ...]. A single part is returned unchanged, so that rows with the same vectors share
    their memory."""
    first, *others = parts
    return torch.cat([first, *others]) if others else first
