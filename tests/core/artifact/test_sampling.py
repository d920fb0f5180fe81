"""Sampling settings: their limits, and their form in databases and PNGs."""

import json
from typing import Any

import pytest
from PIL import Image

from core.artifact.png import encode_png, image_settings
from core.artifact.sampling import SamplingSettings
from difffit.pictures import read_settings


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"steps": 0}, "steps must be within 1..1000, not 0"),
        ({"steps": -1}, "steps must be within 1..1000, not -1"),
        ({"steps": 1001}, "steps must be within 1..1000, not 1001"),
        ({"guidance_scale": -1.0}, "guidance_scale must be within 0..50, not -1.0"),
        ({"guidance_scale": float("nan")}, "guidance_scale must be within 0..50, not nan"),
        ({"adapter_scale": 1.6}, "adapter_scale must be within 0..1.5, not 1.6"),
        ({"guidance_adapter_scale": 1.5}, "guidance_adapter_scale must be within 0..1, not 1.5"),
        ({"guidance_interval": (0, 1000)}, "guidance_interval must be within 0..999, not 0..1000"),
        ({"sampler": "euler"}, "sampler must be one of ddim, ddpm, dpmpp_2m, not euler"),
        ({"timestep_spacing": "leading"}, "timestep_spacing must be one of trailing, dit, not leading"),
        ({"eta": 1.5}, "eta must be within 0..1, not 1.5"),
        ({"eta": 0.5, "sampler": "dpmpp_2m"}, "eta belongs to the sampler ddim"),
    ],
)
def test_settings_outside_their_limits_are_rejected(values: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason.replace(".", r"\.")):
        SamplingSettings(**values)


def test_interval_may_be_given_in_any_order() -> None:
    assert SamplingSettings(guidance_interval=(800, 200)) == SamplingSettings(guidance_interval=(200, 800))


def test_learned_guidance_has_a_default_and_limits_of_its_own() -> None:
    completed = SamplingSettings.completed
    assert [completed({}, highest).guidance_scale for highest in (3.0, 6.0)] == [3.0, 4.0]
    settings = completed({"guidance_scale": 1.5}, 3.0)
    assert (settings.learned_guidance, settings.learned_weight) == (3.0, 0.25)
    assert completed({}).learned_weight == 0
    assert SamplingSettings.from_json(json.loads(json.dumps(settings.to_json()))) == settings
    assert "learned_guidance" not in completed({}).to_json()
    for chosen in ({"guidance_scale": 3.5}, {"guidance_scale": 0.5}):
        with pytest.raises(ValueError, match=r"guidance_scale must be within 1\.\.3, which this version has learned"):
            completed(chosen, 3.0)
    for chosen in ({"guidance_adapter_scale": 0.5}, {"guidance_interval": (200, 800)}):
        with pytest.raises(ValueError, match="do not apply to this version"):
            completed(chosen, 3.0)


def respaced(timesteps: int, count: int) -> list[int]:
    """Returns DiT's respacing of one section as described: evenly spaced with both ends included, rounded."""
    chosen, position = [], 0.0
    while len(chosen) < count:
        chosen.append(round(position))
        position += (timesteps - 1) / (count - 1)
    return sorted(chosen, reverse=True)


def test_dit_spacing_equals_that_of_the_original() -> None:
    for steps in (10, 50, 250, *range(2, 1001)):
        assert SamplingSettings(steps=steps, timestep_spacing="dit").timesteps == respaced(1000, steps), steps
    assert SamplingSettings(steps=10, timestep_spacing="dit").timesteps == list(range(999, -1, -111))
    assert SamplingSettings(steps=1, timestep_spacing="dit").timesteps == [999]


def test_newer_setting_is_stored_only_if_not_the_default() -> None:
    assert "timestep_spacing" not in SamplingSettings().to_json()
    assert SamplingSettings(timestep_spacing="dit").to_json()["timestep_spacing"] == "dit"


def test_settings_survive_json() -> None:
    settings = SamplingSettings(
        steps=7,
        guidance_scale=0.1 + 0.2,
        guidance_interval=(200, 800),
        eta=1 / 3,
        timestep_spacing="dit",
        guidance_adapter_scale=0.7,
        adapter_scale=1.1,
    )
    restored = SamplingSettings.from_json(json.loads(json.dumps(settings.to_json())))
    assert restored == settings
    assert hash(restored) == hash(settings)


def test_settings_of_earlier_releases_get_defaults_and_floats() -> None:
    settings = SamplingSettings.from_json({"steps": 5, "guidance_scale": 4})
    assert settings == SamplingSettings(steps=5)
    assert type(settings.guidance_scale) is float


def test_png_text_is_byte_identical_to_that_of_earlier_releases() -> None:
    settings = image_settings(SamplingSettings(steps=5), adapter=None, base="b", class_name="café", seed=11)
    data = encode_png(Image.new("RGB", (2, 2)), settings)
    text = (
        rb'{"adapter": "base", "base": "b", "class": "caf\u00e9", "eta": 0.0, "guidance_interval": [0, 999], '
        rb'"guidance_scale": 4.0, "sampler": "ddim", "seed": 11, "steps": 5}'
    )
    assert b"iTXtdifffit\0\0\0\0\0" + text in data
    assert read_settings(data) == settings
    assert data == encode_png(Image.new("RGB", (2, 2)), settings)


def test_chosen_settings_stay_and_the_others_get_defaults() -> None:
    completed: Any = SamplingSettings.completed
    guidance: Any = {"guidance_adapter_scale": 0.75, "guidance_interval": (200, 800)}
    assert completed({}) == SamplingSettings(steps=20, sampler="dpmpp_2m", **guidance)
    assert completed({"sampler": "ddim"}) == SamplingSettings(**guidance)
    assert completed({"eta": 1.0}) == SamplingSettings(eta=1.0, **guidance)
    assert completed({"guidance_scale": 2.0}).guidance_adapter_scale == 0.75
    chosen = SamplingSettings(steps=7, sampler="ddpm", guidance_scale=1.0, guidance_interval=(1, 2))
    assert completed(vars(chosen)) == chosen
    with pytest.raises(ValueError, match="eta belongs to the sampler ddim"):
        completed({"eta": 1.0, "sampler": "ddpm"})


def test_adapters_that_cannot_be_interpolated_get_classifier_free_guidance() -> None:
    larger = SamplingSettings.completed({}, interpolates=False)
    assert (larger.guidance_adapter_scale, larger.guidance_interval) == (1.0, (0, 999))
    larger.check_size(2)
