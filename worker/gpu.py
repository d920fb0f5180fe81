"""The device of this process: the resident base, its engine, and the way adapters get onto it."""

import logging
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from core.artifact.errors import ChecksumMismatch
from core.artifact.file import check_against, decode
from core.ml.model.bank import AdapterBank
from core.ml.model.checkpoint import LoadedBase, load_base
from core.ml.model.device import use_device
from core.ml.serving.cache import AdapterCache
from core.ml.serving.engine import Engine
from core.ml.serving.runner import Runner, buckets_for, step_rows
from core.ml.serving.trainings import Training, Work
from core.service.config import Settings
from worker.memory import training_memory

logger = logging.getLogger(__name__)


class Gpu:
    """One base on one device, and the one thread that owns it. `on_death` is the engine's."""

    def __init__(self, settings: Settings, on_death: Callable[[BaseException], None] = lambda _: None) -> None:
        self.settings = settings
        self.device = _device(settings.device)
        use_device(self.device)
        if self.device.type == "cpu" and settings.torch_threads:
            torch.set_num_threads(settings.torch_threads)
        dtype = torch.float32 if self.device.type == "cpu" else torch.bfloat16
        self.base: LoadedBase = load_base(
            settings.base_model, device=self.device, dtype=dtype, autoencoder=settings.autoencoder
        )
        self.bank = AdapterBank(self.base.dit, settings.adapter_slots)
        self.max_rows = min(step_rows(self.device, settings.max_batch_rows), settings.adapter_slots)
        """Forward rows of one step."""
        buckets = buckets_for(self.device, self.max_rows, exact=settings.exact)
        self.engine = Engine(
            Runner(self.bank, self.base.autoencoder, buckets),
            AdapterCache(self.bank, settings.host_cache_bytes),
            max_rows=self.max_rows,
            max_waiting=settings.max_waiting_images,
            training_share=settings.training_share,
            on_death=on_death,
        )
        self.engine.start()
        logger.info("base %s (%s) on %s", self.base.description.name, self.base.description.digest[:12], self.device)

    @property
    def training_memory_bytes(self) -> int:
        """Bytes that a fine-tune's step may take now."""
        return training_memory(self.device, self.settings.training_memory_bytes)

    def tensors(self, digest: str, data: bytes) -> Mapping[str, Tensor]:
        """Checks a stored adapter as if it came from a stranger.

        Raises ArtifactInvalid, BaseMismatch, or ChecksumMismatch when the file is not the one that was named.
        """
        artifact = decode(data)
        if artifact.sha256 != digest:
            raise ChecksumMismatch
        check_against(artifact, self.base.description)
        return {name: torch.from_numpy(array) for name, array in artifact.tensors.items()}

    def train(self, work: Work, on_event: Callable[[Any], None]) -> Training:
        return self.engine.train(work, on_event)

    def stop(self) -> None:
        self.engine.stop()


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(name)
