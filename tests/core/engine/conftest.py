from collections.abc import Iterator

import pytest

from core.engine.engine import Engine
from core.model.autoencoder import Autoencoder
from tests.core.engine.small import engine_of
from tests.core.model.small import autoencoder_folder


@pytest.fixture(scope="module")
def autoencoder(tmp_path_factory: pytest.TempPathFactory) -> Autoencoder:
    return Autoencoder.load(autoencoder_folder(tmp_path_factory.mktemp("vae")))


@pytest.fixture
def engine(autoencoder: Autoencoder) -> Iterator[Engine]:
    engine = engine_of(autoencoder)
    engine.start()
    yield engine
    engine.stop()
