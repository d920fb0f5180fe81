from collections.abc import Iterator

import pytest

from core.ml.model.autoencoder import Autoencoder
from core.ml.serving.engine import Engine
from tests.core.ml.model.small import autoencoder_folder
from tests.core.ml.serving.small import engine_of


@pytest.fixture(scope="module")
def autoencoder(tmp_path_factory: pytest.TempPathFactory) -> Autoencoder:
    return Autoencoder.load(autoencoder_folder(tmp_path_factory.mktemp("vae")))


@pytest.fixture
def engine(autoencoder: Autoencoder) -> Iterator[Engine]:
    engine = engine_of(autoencoder)
    engine.start()
    yield engine
    engine.stop()
