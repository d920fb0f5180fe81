"""Sampling settings, and the timesteps that a sampling run visits. No torch here: the API and the engine's scheduler
use them too."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from itertools import accumulate, repeat
from typing import Any, Literal, Self, get_args

from core.artifact.errors import InvalidRequest

TIMESTEPS = 1000
EVERY_TIMESTEP = (0, TIMESTEPS - 1)
MAX_GUIDANCE_SCALE = 50.0
MAX_ADAPTER_SCALE = 1.5
SamplerName = Literal["ddim", "ddpm", "dpmpp_2m"]
"""Names of the samplers: DDIM, ancestral sampling (DDPM) with the learned variance, and second-order multistep
DPM-Solver++."""
RECOMMENDED_SAMPLER: SamplerName = "dpmpp_2m"
RECOMMENDED_STEPS: dict[SamplerName, int] = {"ddim": 50, "ddpm": 50, "dpmpp_2m": 20}
RECOMMENDED_GUIDANCE: dict[str, Any] = {"guidance_adapter_scale": 0.75, "guidance_interval": (200, 800)}
"""Defaults for requests that leave these settings out. `python -m benchmarks.guidance` compares them with others."""
TimestepSpacing = Literal["trailing", "dit"]
_ALWAYS_STORED = ("steps", "guidance_scale", "guidance_interval", "sampler", "eta")
_FLOATS = {
    "adapter_scale": MAX_ADAPTER_SCALE,
    "mix_weight": 1.0,
    "guidance_scale": MAX_GUIDANCE_SCALE,
    "guidance_adapter_scale": 1.0,
    "eta": 1.0,
}
"""Settings that are numbers from 0, with their max."""


@dataclass(frozen=True, kw_only=True)
class SamplingSettings:
    """Settings of a sampling run. Together with the adapters, a class and a seed they determine an image.

    Raises ValueError, with a sentence for the user, for a setting outside its limits. The default of a new setting must
    give the same images as before the setting existed, since database rows and PNG files of earlier releases lack it.
    """

    steps: int = 50
    adapter_scale: float = 1.0
    """Strength of the adapter: 0 is the base, 1 the adapter. Values between interpolate, values above 1 extrapolate."""
    mix_weight: float = 0.0
    """Weight of a second adapter that is mixed into the first: 0 is the first, 1 the second."""
    guidance_scale: float = 4.0
    """Scale of the extrapolation away from the unconditional prediction. At 1 the model runs without guidance, at half
    the cost."""
    guidance_adapter_scale: float = 1.0
    """Scale of the adapter in the unconditional prediction, as a multiple of `adapter_scale`. 1 is classifier-free
    guidance (arXiv 2207.12598). 0 guides away from the base's prediction (Domain Guidance, arXiv 2504.01521), and
    values between guide away from a weaker version of the adapter (autoguidance, arXiv 2406.02507)."""
    guidance_interval: tuple[int, int] = EVERY_TIMESTEP
    """Lowest and highest timestep at which guidance applies (arXiv 2404.07724), given in any order."""
    sampler: SamplerName = "ddim"
    eta: float = 0.0
    """Noise level of DDIM: 0 is deterministic, 1 adds as much noise as DDPM."""
    timestep_spacing: TimestepSpacing = "trailing"
    learned_guidance: float = 0.0
    """Highest guidance scale that the adapter has learned, so that it predicts the guided noise itself, in one model
    evaluation; 0 if it has learned none. See `TrainingSettings.distill_guidance`."""

    def __post_init__(self) -> None:
        lowest, highest = sorted(self.guidance_interval)
        object.__setattr__(self, "guidance_interval", (lowest, highest))
        if not 1 <= self.steps <= TIMESTEPS:
            raise ValueError(f"steps must be within 1..{TIMESTEPS}, not {self.steps}")
        for name, most in _FLOATS.items():
            if not 0 <= getattr(self, name) <= most:
                raise ValueError(f"{name} must be within 0..{most:g}, not {getattr(self, name)}")
        if not 0 <= lowest <= highest < TIMESTEPS:
            raise ValueError(f"guidance_interval must be within 0..{TIMESTEPS - 1}, not {lowest}..{highest}")
        if self.sampler not in get_args(SamplerName):
            raise ValueError(f"sampler must be one of {', '.join(get_args(SamplerName))}, not {self.sampler}")
        if self.eta and self.sampler != "ddim":
            raise ValueError("eta belongs to the sampler ddim")
        if self.timestep_spacing not in get_args(TimestepSpacing):
            spacings = ", ".join(get_args(TimestepSpacing))
            raise ValueError(f"timestep_spacing must be one of {spacings}, not {self.timestep_spacing}")

    @property
    def learned_weight(self) -> float:
        """Weight of learned guidance: 0 at a guidance scale of 1, and 1 at the highest scale that the adapter has
        learned."""
        return (self.guidance_scale - 1) / (self.learned_guidance - 1) if self.learned_guidance > 1 else 0.0

    def check_size(self, scale: int) -> None:
        """Raises InvalidRequest if a setting is not available for images of `scale` times the base's image size."""
        for name in ("adapter_scale", "guidance_adapter_scale"):
            if scale > 1 and getattr(self, name) != 1:
                reason = "must be 1 for images of twice the base's size, where other values have not been measured"
                raise InvalidRequest(name, reason)

    @property
    def timesteps(self) -> list[int]:
        """Timesteps that the run visits: `steps` evenly spaced ones, descending from 999, the noisiest timestep of
        training.

        "trailing" counts from the end (arXiv 2305.08891): the last step is as long as the others. "dit" includes both
        999 and 0, as the original DiT's respacing does; with a single step it visits only 999.
        """
        if self.timestep_spacing == "dit" and self.steps > 1:
            stride = (TIMESTEPS - 1) / (self.steps - 1)
            places = accumulate(repeat(stride, self.steps - 1), initial=0.0)  # DiT sums up too: rounding breaks ties
            return [round(place) for place in places][::-1]
        return [round(TIMESTEPS - index * TIMESTEPS / self.steps) - 1 for index in range(self.steps)]

    def to_json(self) -> dict[str, Any]:
        """Returns the settings as database rows and PNG files store them. A setting that was added after the first
        release is left out where it has its default, so that equal images keep equal bytes."""
        values = {**asdict(self), "guidance_interval": list(self.guidance_interval)}
        defaults = {field.name: field.default for field in fields(self) if field.name not in _ALWAYS_STORED}
        return {name: value for name, value in values.items() if name not in defaults or value != defaults[name]}

    @classmethod
    def completed(
        cls, chosen: Mapping[str, Any], learned_guidance: float | None = None, *, interpolates: bool = True
    ) -> Self:
        """Returns the settings of a request that chooses only some of them. Without a sampler, the request gets the
        recommended one (DDIM if it chooses an eta), and without a number of steps, what the sampler needs. Without
        guidance settings it gets the recommended guidance, or classifier-free guidance if the adapter cannot be
        interpolated with the base (`interpolates` is False). `learned_guidance` is the highest guidance scale of an
        adapter that has learned guidance.

        Raises ValueError if the chosen values are not valid sampling settings, or not available for the adapter.
        """
        sampler = chosen.get("sampler", "ddim" if chosen.get("eta") else RECOMMENDED_SAMPLER)
        values = {"sampler": sampler, "steps": RECOMMENDED_STEPS.get(sampler, cls.steps)}
        if learned_guidance is None:
            guidance = RECOMMENDED_GUIDANCE if interpolates else {}
            return cls(**{**values, **guidance, **chosen})
        scale = min(cls.guidance_scale, learned_guidance)
        settings = cls(**{**values, "guidance_scale": scale, **chosen, "learned_guidance": learned_guidance})
        if settings.guidance_adapter_scale != 1 or settings.guidance_interval != EVERY_TIMESTEP:
            raise ValueError(
                "guidance_adapter_scale and guidance_interval do not apply to this version, which has learned guidance"
            )
        if not 1 <= settings.guidance_scale <= learned_guidance:
            raise ValueError(f"guidance_scale must be within 1..{learned_guidance:g}, which this version has learned")
        return settings

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Self:
        """Builds settings from their stored form. Raises ValueError or TypeError if the values are not valid sampling
        settings."""
        floats: dict[str, Any] = {name: float(values[name]) for name in _FLOATS if name in values}
        return cls(**values | floats)
