"""Sampling settings, and the timesteps they visit. No torch here: the API and the engine's scheduler use them too."""

from dataclasses import asdict, dataclass, fields
from itertools import accumulate, repeat
from typing import Any, Literal, Self, get_args

from core.artifact.errors import InvalidRequest

TIMESTEPS = 1000
EVERY_TIMESTEP = (0, TIMESTEPS - 1)
MAX_GUIDANCE_SCALE = 50.0
SamplerName = Literal["ddim", "ddpm", "dpmpp_2m"]
"""DDIM, ancestral sampling with the learned variance, and DPM-Solver++ of second order, multistep."""
TimestepSpacing = Literal["trailing", "dit"]
_ALWAYS_STORED = ("steps", "guidance_scale", "guidance_interval", "sampler", "eta")
_FLOATS = ("guidance_scale", "guidance_adapter_scale", "eta")


@dataclass(frozen=True, kw_only=True)
class SamplingSettings:
    """Settings of a sampling run: with a class and a seed they decide an image.

    Raises ValueError with a sentence when a setting is out of its limits. A new setting must, by default, draw as
    before it was there: database rows and PNGs of earlier releases lack it.
    """

    steps: int = 50
    guidance_scale: float = 4.0
    """Extrapolation from the unconditional prediction; 1 switches guidance off, at half the cost."""
    guidance_adapter_scale: float = 1.0
    """Scale of the adapter in the unconditional prediction. 1 is classifier-free guidance (arXiv 2207.12598), 0 guides
    against the base (Domain Guidance, arXiv 2504.01521), values between against a weaker version of the adapter
    (autoguidance, arXiv 2406.02507)."""
    guidance_interval: tuple[int, int] = EVERY_TIMESTEP
    """Lowest and highest timestep that are guided (arXiv 2404.07724); given in any order."""
    sampler: SamplerName = "ddim"
    eta: float = 0.0
    """DDIM's eta: 0 is deterministic, 1 as noisy as DDPM."""
    timestep_spacing: TimestepSpacing = "trailing"

    def __post_init__(self) -> None:
        lowest, highest = sorted(self.guidance_interval)
        object.__setattr__(self, "guidance_interval", (lowest, highest))
        if not 1 <= self.steps <= TIMESTEPS:
            raise ValueError(f"steps must be within 1..{TIMESTEPS}, not {self.steps}")
        if not 0 <= self.guidance_scale <= MAX_GUIDANCE_SCALE:
            raise ValueError(f"guidance_scale must be within 0..{MAX_GUIDANCE_SCALE:g}, not {self.guidance_scale}")
        if not 0 <= self.guidance_adapter_scale <= 1:
            raise ValueError(f"guidance_adapter_scale must be within 0..1, not {self.guidance_adapter_scale}")
        if not 0 <= lowest <= highest < TIMESTEPS:
            raise ValueError(f"guidance_interval must be within 0..{TIMESTEPS - 1}, not {lowest}..{highest}")
        if self.sampler not in get_args(SamplerName):
            raise ValueError(f"sampler must be one of {', '.join(get_args(SamplerName))}, not {self.sampler}")
        if not 0 <= self.eta <= 1:
            raise ValueError(f"eta must be within 0..1, not {self.eta}")
        if self.eta and self.sampler != "ddim":
            raise ValueError("eta belongs to the sampler ddim")
        if self.timestep_spacing not in get_args(TimestepSpacing):
            spacings = ", ".join(get_args(TimestepSpacing))
            raise ValueError(f"timestep_spacing must be one of {spacings}, not {self.timestep_spacing}")

    def check_size(self, scale: int) -> None:
        """Raises InvalidRequest for settings that are not offered for images of `scale` times the base's size."""
        if scale > 1 and self.guidance_adapter_scale != 1:
            reason = "must be 1 for images of twice the base's size, where other values have not been measured"
            raise InvalidRequest("guidance_adapter_scale", reason)

    @property
    def timesteps(self) -> list[int]:
        """`steps` evenly spaced timesteps from 999 down, so that sampling starts from the noise that training saw last.

        "trailing" counts from the end (arXiv 2305.08891): the last step is as long as the others. "dit" includes both
        ends, as DiT's own respacing does; a single step is at 999.
        """
        if self.timestep_spacing == "dit" and self.steps > 1:
            stride = (TIMESTEPS - 1) / (self.steps - 1)
            places = accumulate(repeat(stride, self.steps - 1), initial=0.0)  # DiT sums up too: rounding breaks ties
            return [round(place) for place in places][::-1]
        return [round(TIMESTEPS - index * TIMESTEPS / self.steps) - 1 for index in range(self.steps)]

    def to_json(self) -> dict[str, Any]:
        """Returns the settings as database rows and PNGs store them. A setting that came later than the first ones is
        left out where it has its default, so that equal images keep equal bytes."""
        values = {**asdict(self), "guidance_interval": list(self.guidance_interval)}
        defaults = {field.name: field.default for field in fields(self) if field.name not in _ALWAYS_STORED}
        return {name: value for name, value in values.items() if name not in defaults or value != defaults[name]}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Self:
        """Raises ValueError or TypeError when the values are no sampling settings."""
        floats: dict[str, Any] = {name: float(values[name]) for name in _FLOATS if name in values}
        return cls(**values | floats)
