from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from core.ml.model.autoencoder import Autoencoder
from core.ml.model.bank import AdapterBank, FoldedAdapter
from core.ml.serving.engine import Engine
from core.ml.serving.runner import Runner
from tests.core.ml.model.small import autoencoder_folder, random_dit
from tests.core.ml.serving.small import StandInGraphs, Stepping, engine_of, tensors


@pytest.fixture(scope="module")
def autoencoder(tmp_path_factory: pytest.TempPathFactory) -> Autoencoder:
    return Autoencoder.load(autoencoder_folder(tmp_path_factory.mktemp("vae")))


@pytest.fixture
def engine(autoencoder: Autoencoder) -> Iterator[Engine]:
    engine = engine_of(autoencoder)
    engine.start()
    yield engine
    engine.stop()


@pytest.fixture(scope="module")
def bank() -> AdapterBank:
    return AdapterBank(random_dit(), 8)


@pytest.fixture(scope="module")
def adapters(bank: AdapterBank) -> list[FoldedAdapter | None]:
    return [None, *(bank.fold(f"adapter-{seed}", tensors(seed)) for seed in range(3))]


@pytest.fixture
def stepping(
    bank: AdapterBank, adapters: list[FoldedAdapter | None], autoencoder: Autoencoder
) -> Callable[..., Stepping]:
    def stepping(buckets: Sequence[int] = (16,), graphs: StandInGraphs | None = None, **others: Any) -> Stepping:
        return Stepping(Runner(bank, autoencoder, buckets, graphs=graphs), adapters, **others)

    return stepping
