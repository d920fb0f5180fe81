"""A small engine for tests, and requests for it."""

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from typing import Any

from torch import Tensor

from core.engine.cache import AdapterCache
from core.engine.engine import Engine
from core.engine.request import Drawn, ImageRequest
from core.engine.runner import Runner, buckets_for
from core.model.autoencoder import Autoencoder
from core.model.bank import AdapterBank
from tests.core.model.small import CONFIG, random_dit, random_tensors

SLOTS = 16


def engine_of(
    autoencoder: Autoencoder,
    max_rows: int = 16,
    compile: bool = False,
    exact: bool = False,
    depth: int = CONFIG.depth,
    on_death: Callable[[BaseException], None] = lambda _: None,
) -> Engine:
    bank = AdapterBank(random_dit(replace(CONFIG, depth=depth)), SLOTS)
    runner = Runner(bank, autoencoder, buckets_for(bank.device, max_rows, exact=exact), compile=compile)
    cache = AdapterCache(bank, host_bytes=2**30)
    return Engine(runner, cache, max_rows=max_rows, max_waiting=60, training_share=0.2, on_death=on_death)


def tensors(seed: int) -> dict[str, Tensor]:
    return random_tensors(random_dit(), "paper", seed=seed)


def draw(engine: Engine, request: ImageRequest, **listeners: Any) -> "Future[Drawn]":
    return engine.submit(request, lambda: tensors(int((request.adapter or "-0").split("-")[1])), **listeners)


def result(engine: Engine, request: ImageRequest) -> Drawn:
    return draw(engine, request).result(60)


def request(id: str, **changes: Any) -> ImageRequest:
    fields: dict[str, Any] = {
        "tenant": "tenant",
        "adapter": "adapter-0",
        "class_id": 1,
        "seeds": (5, 6),
        "steps": 4,
        "guidance_scale": 3.0,
    }
    return ImageRequest(id=id, **{**fields, **changes})
