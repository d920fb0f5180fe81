"""Base model on a device with a running engine, as workers and the local commands use it."""

import logging
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from core.artifact.errors import ChecksumMismatch, InvalidRequest
from core.artifact.file import check_against, decode
from core.ml.model.bank import AdapterBank
from core.ml.model.checkpoint import LoadedBase, load_base
from core.ml.model.device import find_device, has_fp8, use_device
from core.ml.serving.cache import AdapterCache
from core.ml.serving.engine import Engine
from core.ml.serving.forwards import buckets_for, step_rows
from core.ml.serving.runner import Runner

logger = logging.getLogger(__name__)


def load_base_on(device: str, reference: str, *, autoencoder: str | None = None, threads: int = 0) -> LoadedBase:
    """Loads the base model `reference` onto a device: `cpu`, `cuda`, `cuda:1`, or `auto` for a GPU if there is one. The
    dtype is fp32 on a CPU and bf16 elsewhere. `threads` is torch's number of CPU threads; 0 leaves the choice to torch.
    Raises InvalidRequest for a device that does not exist, BaseMissing, CheckpointInvalid."""
    chosen = find_device(device)
    use_device(chosen)
    if threads:
        torch.set_num_threads(threads)
    dtype = torch.float32 if chosen.type == "cpu" else torch.bfloat16
    return load_base(reference, device=chosen, dtype=dtype, autoencoder=autoencoder)


class Resident:
    """Base model that stays loaded on a device, with its adapter table and a running engine. Until `engine.stop` is
    called, only the engine's threads use the device. `on_death`, `max_waiting` and `training_share` are passed to
    `Engine`.

    `max_rows` limits the batch rows of a step; the device's own limit may be lower. `exact` makes an image on a GPU
    independent of what else is in the batch. `fp8` computes most of a step in fp8, for which it raises InvalidRequest
    on a device without fp8. `adapter_slots` is the number of adapters in the device's table.
    """

    def __init__(
        self,
        base: LoadedBase,
        *,
        adapter_slots: int,
        max_rows: int | None,
        exact: bool,
        fp8: bool = False,
        host_cache_bytes: int,
        max_waiting: int,
        training_share: float,
        on_death: Callable[[BaseException], None] = lambda _: None,
    ) -> None:
        self.base = base
        self.device = base.dit.positions.device
        if fp8 and not has_fp8(self.device):
            raise InvalidRequest("DIFFFIT_FP8", "needs an NVIDIA GPU of compute capability 8.9 or higher.")
        self.bank = AdapterBank(base.dit, adapter_slots, fp8=fp8)
        self.max_rows = min(step_rows(self.device, max_rows), adapter_slots)
        """Max batch rows in one sampling step."""
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
        """Decodes a stored adapter file and returns its tensors by name. Checks the file as thoroughly as an upload.

        Raises ArtifactInvalid, BaseMismatch, or ChecksumMismatch when the file's digest is not `digest`.
        """
        artifact = decode(data)
        if artifact.sha256 != digest:
            raise ChecksumMismatch
        check_against(artifact, self.base.description)
        return {name: torch.from_numpy(array) for name, array in artifact.tensors.items()}
