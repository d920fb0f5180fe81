"""The device of this process: the resident base, its engine, and the way adapters get onto it."""

import logging
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import torch

from core.artifact.file import check_against, decode
from core.config import Settings
from core.engine.engine import Engine, Training, Work
from core.engine.request import Drawn, ImageRequest
from core.engine.runner import Runner
from core.errors import UnknownAdapter
from core.model.bank import AdapterBank
from core.model.checkpoint import LoadedBase, load_base

logger = logging.getLogger(__name__)


class Gpu:
    """One base on one device, and the one thread that owns it."""

    def __init__(self, settings: Settings) -> None:
        self.device = _device(settings.device)
        if self.device.type == "cpu" and settings.torch_threads:
            torch.set_num_threads(settings.torch_threads)
        dtype = torch.float32 if self.device.type == "cpu" else torch.bfloat16
        self.base: LoadedBase = load_base(
            settings.base_model, device=self.device, dtype=dtype, autoencoder=settings.autoencoder
        )
        self.bank = AdapterBank(self.base.dit, settings.adapter_slots, settings.host_cache_bytes)
        self.engine = Engine(
            Runner(self.base.dit, self.base.autoencoder, self.bank),
            self.bank,
            max_rows=settings.max_batch_rows,
            max_waiting=settings.max_waiting_images,
            training_share=settings.training_share,
        )
        self.engine.start()
        logger.info("base %s (%s) on %s", self.base.description.name, self.base.description.digest[:12], self.device)

    def draw(
        self, request: ImageRequest, fetch: Callable[[], bytes], on_step: Callable[[float], None]
    ) -> "Future[Drawn]":
        """Submits a request; `fetch` brings its adapter's file when the bank does not hold it."""
        if request.adapter is not None and request.adapter not in self.bank:
            self.add_adapter(request.adapter, fetch())
        return self.engine.submit(request, on_step)

    def add_adapter(self, digest: str, data: bytes) -> None:
        """Checks a stored adapter as if it came from a stranger, and folds it into the bank.

        Raises ArtifactInvalid, BaseMismatch, or UnknownAdapter when the file is not the one that was named.
        """
        artifact = decode(data)
        if artifact.sha256 != digest:
            raise UnknownAdapter(digest)
        check_against(artifact, self.base.description)
        self.engine.add_adapter(digest, {name: torch.from_numpy(array) for name, array in artifact.tensors.items()})

    def train(self, work: Work, on_event: Callable[[Any], None]) -> Training:
        return self.engine.train(work, on_event)

    def stop(self) -> None:
        self.engine.stop()


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(name)
