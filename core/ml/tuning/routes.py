"""The way from tensors that train to the model's output. `route_of` is the only place that chooses it.

Everything that DiffFit and BitFit train folds into vectors, so rows of several adapters pass the model together. The
other methods (full, LoRA, AdaptFormer, VPT) go through `dit(x, t, y, adapter)`, one adapter at a time.
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
"""An adapter's tensors, and how many rows of the batch it has: None for all of them"""


class Route(ABC):
    """Computes outputs of one base with tensors of one method."""

    shares: bool
    """Whether rows of several adapters can pass together."""

    def __init__(self, dit: DiT) -> None:
        self.dit = dit

    def model(self, tensors: Mapping[str, Tensor]) -> Model:
        """The base with one adapter; no tensors are the base itself. Gradients reach the tensors."""
        return self.joint_model([(tensors, None)])

    @abstractmethod
    def joint_model(self, adapters: Sequence[AdapterRows]) -> Model:
        """The base with adapters that have the rows of a batch one after the other."""


class FoldedRoute(Route):
    """Through the folded form: a row takes its adapter's vectors and its class embedding."""

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
    """Through `dit(x, t, y, adapter)`."""

    shares = False

    def __init__(self, dit: DiT, make_adapter: MakeAdapter) -> None:
        super().__init__(dit)
        self._make_adapter = make_adapter

    def joint_model(self, adapters: Sequence[AdapterRows]) -> Model:
        ((tensors, _),) = adapters
        adapter = self._make_adapter(tensors) if tensors else BASE
        return lambda x, t, y: self.dit(x, t, y, adapter)


def route_of(dit: DiT, names: Iterable[str], make_adapter: MakeAdapter) -> Route:
    """The route for tensors of these names."""
    if folds(dit.config, names):
        return FoldedRoute(dit)
    return ReferenceRoute(dit, make_adapter)


def _joined(parts: Iterable[Tensor]) -> Tensor:
    """Concatenates the parts to [B, ...]. A single part is returned unchanged, so that rows with the same vectors share
    their memory."""
    first, *others = parts
    return torch.cat([first, *others]) if others else first
