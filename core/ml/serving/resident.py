"""One base on one device, its engine, and the loading of adapters, for workers and local commands alike."""

import logging
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from core.artifact.errors import ChecksumMismatch
from core.artifact.file import check_against, decode
from core.ml.model.bank import AdapterBank
from core.ml.model.checkpoint import LoadedBase, load_base
from core.ml.model.device import use_device
from core.ml.serving.cache import AdapterCache
from core.ml.serving.engine import Engine
from core.ml.serving.forwards import buckets_for, step_rows
from core.ml.serving.runner import Runner

logger = logging.getLogger(__name__)


def load_base_on(device: str, reference: str, *, autoencoder: str | None = None, threads: int = 0) -> LoadedBase:
    """Loads a base onto `cpu`, `cuda`, `cuda:1` or, for `auto`, a GPU if there is one; in bf16 on a GPU. `threads` is
    the number of CPU threads; 0 means torch's choice. Raises BaseMissing, CheckpointInvalid."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    chosen = torch.device(device)
    use_device(chosen)
    if chosen.type == "cpu" and threads:
        torch.set_num_threads(threads)
    dtype = torch.float32 if chosen.type == "cpu" else torch.bfloat16
    return load_base(reference, device=chosen, dtype=dtype, autoencoder=autoencoder)


class Resident:
    """A base that serves: the engine's thread owns its device until `engine.stop`. `on_death` is the engine's.

    `max_rows` limits the forward rows of a step, of which the device may allow fewer. `max_waiting` images may wait.
    """

    def __init__(
        self,
        base: LoadedBase,
        *,
        adapter_slots: int,
        max_rows: int | None,
        exact: bool,
        host_cache_bytes: int,
        max_waiting: int,
        training_share: float,
        on_death: Callable[[BaseException], None] = lambda _: None,
    ) -> None:
        self.base = base
        self.device = base.dit.positions.device
        self.bank = AdapterBank(base.dit, adapter_slots)
        self.max_rows = min(step_rows(self.device, max_rows), adapter_slots)
        """Forward rows of one step."""
        buckets = buckets_for(self.device, self.max_rows, exact=exact)
        self.engine = Engine(
            Runner(self.bank, base.autoencoder, buckets),
            AdapterCache(self.bank, host_cache_bytes),
            max_rows=self.max_rows,
            max_waiting=max_waiting,
            training_share=training_share,
            on_death=on_death,
        )
        self.engine.start()
        logger.info("base %s (%s) on %s", base.description.name, base.description.digest[:12], self.device)

    def tensors(self, digest: str, data: bytes) -> Mapping[str, Tensor]:
        """Checks a stored adapter as if it came from a stranger.

        Raises ArtifactInvalid, BaseMismatch, or ChecksumMismatch when the file is not the one that was named.
        """
        artifact = decode(data)
        if artifact.sha256 != digest:
            raise ChecksumMismatch
        check_against(artifact, self.base.description)
        return {name: torch.from_numpy(array) for name, array in artifact.tensors.items()}
