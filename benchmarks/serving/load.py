"""Builds a serving engine with domains, and requests for it."""

import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, Self

from torch import Tensor

from benchmarks.serving.subjects import CLASSES, Subject
from core.artifact.sampling import SamplingSettings
from core.ml.model.bank import AdapterBank, FoldedAdapter
from core.ml.serving.batches import Graphs
from core.ml.serving.cache import AdapterCache
from core.ml.serving.engine import Engine
from core.ml.serving.forwards import buckets_for
from core.ml.serving.request import Drawn, ImageRequest
from core.ml.serving.runner import Runner

MAX_ROWS = 32
GUIDANCE = 4.0
_ids = itertools.count()


class Serving(AbstractContextManager["Serving"]):
    """Serving engine set up as in a worker, with the adapters of `domains` in its host cache. The device has `slots`
    adapter slots, by default enough for all domains. `graphs` replaces the device's own capture of CUDA graphs."""

    def __init__(
        self,
        subject: Subject,
        domains: Mapping[str, Mapping[str, Tensor]],
        *,
        slots: int | None = None,
        max_rows: int = MAX_ROWS,
        exact: bool = False,
        graphs: Graphs | None = None,
    ) -> None:
        self.subject, self.domains = subject, domains
        bank = AdapterBank(subject.dit, slots or max(len(domains), max_rows))
        self.cache = AdapterCache(bank, host_bytes=2**40)
        buckets = buckets_for(subject.device, max_rows, exact=exact)
        self.runner = Runner(bank, subject.autoencoder, buckets, graphs=graphs)
        self.engine = Engine(self.runner, self.cache, max_rows=max_rows, max_waiting=10_000, training_share=0)

    def __enter__(self) -> Self:
        for domain in self.domains:
            self.folded(domain)
        self.engine.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.engine.stop()

    def folded(self, domain: str) -> FoldedAdapter:
        return self.cache.get(domain, partial(self.domains.__getitem__, domain)).result()

    def submit(self, request: ImageRequest, on_step: Callable[[float, int], None] = lambda *_: None) -> "Future[Drawn]":
        load = None if request.adapter is None else partial(self.domains.__getitem__, request.adapter)
        return self.engine.submit(request, load, on_step=on_step)

    def seconds(self, requests: Sequence[ImageRequest]) -> float:
        """Submits the requests together, and returns the seconds until all have their images."""
        started = time.perf_counter()
        for drawn in [self.submit(request) for request in requests]:
            drawn.result()
        return time.perf_counter() - started

    def closed_loop(self, requests: Sequence[ImageRequest], clients: int) -> tuple[float, list[float]]:
        """Sends the requests from several clients, each of which sends its next request when its previous one is done.
        Returns the seconds for all requests, and the seconds of each."""
        with ThreadPoolExecutor(clients) as pool:
            started = time.perf_counter()
            latencies = list(pool.map(lambda request: self.seconds([request]), requests))
            return time.perf_counter() - started, latencies


def request(
    domain: str | None, *, steps: int, guidance_scale: float = GUIDANCE, seeds: tuple[int, ...] = (0,), **others: Any
) -> ImageRequest:
    """Returns a request for one guided image. Its tenant is named like the domain, unless `others` contains another
    tenant."""
    number = next(_ids)
    values = {"tenant": str(domain), "class_id": number % CLASSES, **others}
    sampling = SamplingSettings(steps=steps, guidance_scale=guidance_scale)
    return ImageRequest(id=str(number), adapter=domain, seeds=seeds, sampling=sampling, **values)
