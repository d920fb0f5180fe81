"""Training settings as plain values."""

import pytest

from core.artifact.manifest import trained_steps
from core.artifact.training import DEFAULT_TRAINING, TrainingSettings, suggested_steps


@pytest.mark.parametrize(
    ("images", "batch", "expected"),
    [(160, 32, 400), (160, 16, 800), (1, 32, 100), (40, 32, 100), (100_000, 32, 2000), (300, 32, 750)],
)
def test_suggested_steps_grow_with_the_data_set(images: int, batch: int, expected: int) -> None:
    assert suggested_steps(images, batch) == expected


def test_settings_of_earlier_releases_are_read_and_never_evaluate() -> None:
    old = {"steps": 7, "batch_size": 2, "learning_rate": 0.001, "seed": 3, "gradient_clip": 1.0}
    settings = TrainingSettings.from_json(old)
    assert (settings.evaluate_every, settings.keeps_best, settings.sampling) == (0, False, "shuffled")
    assert TrainingSettings.from_json(settings.to_json()) == settings


def test_early_stopping_keeps_the_best() -> None:
    assert DEFAULT_TRAINING.keeps_best
    assert not TrainingSettings(steps=1).keeps_best
    assert TrainingSettings(steps=1, early_stopping=2).keeps_best


def test_steps_of_an_adapter_are_those_of_the_kept_average_or_unknown() -> None:
    assert trained_steps({"steps": 400}) == 400
    assert trained_steps({"steps": 400, "adapter_step": 250}) == 250
    assert [trained_steps(unknown) for unknown in ({}, {"steps": "many"}, {"steps": -3}, {"steps": 0.5})] == [0] * 4
