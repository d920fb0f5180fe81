"""Settings of a training run, as plain values."""

from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, Self

from core.artifact.errors import InvalidRequest
from core.artifact.sampling import EVERY_TIMESTEP, RECOMMENDED_GUIDANCE
from core.artifact.seeds import MAX_SEED

StopReason = Literal["all_steps", "early_stopping"]
"""Reason why a training run ended: all steps are done, or `early_stopping` ended it before the last step."""

PRETRAINING_RATE = 1e-4
"""Learning rate of DiT's pre-training and of full fine-tuning. The DiffFit paper gives the learning rates of the other
methods as multiples of this one (Table 4d)."""
DISTILLATION_RATE = 5
"""Learning rate of the steps that learn guidance, as a multiple of the rate before them. With 1 and 3, images of
the OpenMoji domain were farther from it, with 8 as far."""
_LIMITS = {
    "steps": (1, 100_000),
    "batch_size": (1, 1024),
    "seed": (0, MAX_SEED - 1),
    "evaluate_every": (0, 100_000),
    "early_stopping": (1, 1000),
    "distill_steps": (1, 100_000),
}
"""Min and max of settings that a user may choose."""
_LIMITS_ABOVE = {"learning_rate": (0, 1), "distill_guidance": (1, 10)}
"""The same for settings that must exceed the first number."""


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """Settings of a training run. The defaults follow the DiffFit paper's recipe, but with a smaller batch.

    The default of a new setting must train as before the setting existed, since database rows and checkpoints of
    earlier releases lack it.
    """

    steps: int
    batch_size: int = 32
    learning_rate: float = 10 * PRETRAINING_RATE
    """Learning rate between `warmup_steps` and `decay_steps`. The default is the paper's for parameter-efficient
    methods."""
    warmup_steps: int = 0
    decay_steps: int = 0
    """Number of training steps at the end over which the learning rate falls linearly to zero."""
    label_dropout: float = 0.1
    ema_decay: float = 0.9999
    gradient_clip: float | None = None
    """Maximum norm of the gradient of all trained tensors together. None does not clip."""
    minimum_snr_gamma: float | None = None
    """Gamma of min-SNR weighting, which multiplies an image's squared error by min(SNR, gamma) / SNR (arXiv
    2303.09556). None takes the plain mean, as the paper does."""
    timesteps: Literal["independent", "stratified", "focused"] = "independent"
    """Distribution of the training timesteps. "independent" draws each image's timestep uniformly. "stratified" draws
    one timestep from each of `batch_size` equal parts: the same distribution, with less noise in the gradient (arXiv
    2107.00630, appendix I.1). "focused" also draws one from each part, but gives 85 % of the parts to the timesteps
    below 600, at which an image takes shape. Above 600 a noisy image is almost pure noise, and a model soon learns what
    can be learned there (arXiv 2405.17403)."""
    sampling: Literal["shuffled", "balanced"] = "shuffled"
    """Choice of the training images. "shuffled" goes through all images again and again, each time in a new order;
    "balanced" draws a class, then an image of the class."""
    held_out_fraction: float = 0.1
    micro_batch_size: int | None = None
    """Maximum number of a batch's images in one forward and backward pass. A smaller number needs less memory.
    Gradients of the parts are summed, so the rounding of the sums is all that changes."""
    seed: int = 0
    evaluate_every: int = 0
    """Number of training steps between two evaluations of the moving average on the held-out images; 0 never evaluates.
    The evaluations do not change the training."""
    keep: Literal["last", "best"] = "last"
    """Moving average that becomes the adapter: that of the last step, or the one with the lowest held-out loss."""
    early_stopping: int | None = None
    """Number of consecutive evaluations without a lower held-out loss after which training ends. The best moving
    average then becomes the adapter, whatever `keep` is. None trains all steps."""

    distill_guidance: float | None = None
    """Guidance scale that a copy of the adapter learns in the last steps, so that a single model evaluation predicts
    the guided noise (guidance distillation, arXiv 2210.03142). Scales from 1 up to this one interpolate between the
    adapter and its copy. None learns no guidance."""
    distill_steps: int = 150
    """Number of steps that learn guidance, at most half of all steps."""
    distill_adapter_scale: float = 1.0
    """Scale of the adapter in the unconditional prediction from which the learned guidance leads away: see
    `SamplingSettings.guidance_adapter_scale`."""
    distill_lowest_timestep: int = EVERY_TIMESTEP[0]
    distill_highest_timestep: int = EVERY_TIMESTEP[1]
    """Timesteps between which the adapter learns guidance; at others it learns the conditional prediction. See
    `SamplingSettings.guidance_interval`."""

    @property
    def before_distillation(self) -> "TrainingSettings":
        """Settings of the steps before guidance is learned: these settings if none is."""
        if self.distill_guidance is None:
            return self
        return replace(self, steps=self.steps - self.distillation.steps, distill_guidance=None)

    @property
    def distillation(self) -> "TrainingSettings":
        """Settings of the steps that learn guidance. Every image keeps its label, timesteps are stratified, and the
        rate is higher and falls over the last two fifths; the moving average is short, since the steps are few."""
        steps = min(self.distill_steps, self.steps // 2)
        return replace(
            self,
            steps=steps,
            learning_rate=DISTILLATION_RATE * self.learning_rate,
            warmup_steps=10,
            decay_steps=2 * steps // 5,
            label_dropout=0.0,
            ema_decay=0.98,
            gradient_clip=1.0,
            minimum_snr_gamma=None,
            timesteps="stratified",
            evaluate_every=0,
            keep="last",
            early_stopping=None,
        )

    @property
    def keeps_best(self) -> bool:
        """Whether the moving average with the lowest held-out loss becomes the adapter."""
        return self.keep == "best" or self.early_stopping is not None

    def check(self) -> None:
        """Raises InvalidRequest for a setting outside its limits. The constructor accepts such settings, since a row of
        an earlier release must stay readable."""
        for name, (least, most) in _LIMITS.items():
            value = getattr(self, name)
            if value is not None and not least <= value <= most:
                raise InvalidRequest(name, f"must be within {least}..{most}, not {value}")
        for name, (bound, most) in _LIMITS_ABOVE.items():
            value = getattr(self, name)
            if value is not None and not bound < value <= most:
                raise InvalidRequest(name, f"must be above {bound} and at most {most}, not {value}")
        if self.distill_guidance is not None and self.distillation.steps < 1:
            raise InvalidRequest("steps", "must be at least 2 with distill_guidance: half of them may learn guidance")

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Self:
        return cls(**values)


DEFAULT_TRAINING = TrainingSettings(
    steps=400,
    gradient_clip=1.0,
    evaluate_every=25,
    keep="best",
    distill_adapter_scale=RECOMMENDED_GUIDANCE["guidance_adapter_scale"],
)
"""Training settings of a fine-tune, on a server and on the user's own machine, where the request does not change them.
Guidance is learned at all timesteps: an adapter's vectors are the same at all of them, and hardly learn an interval."""


def suggested_steps(images: int, batch_size: int) -> int:
    """Returns a number of training steps that suits a data set of `images` images: 80 epochs, within 100 and 2,000
    steps.

    On the sample domain with batches of 32, 80 epochs lower the loss on unseen images by about nine tenths of what
    longer training does: 400 steps for all 160 images, compared with 825 steps, and 100 steps for 40 of the images,
    compared with 325. The upper limit, for large data sets, is not measured: it keeps the cost of a first try small.
    """
    return min(2000, max(100, round(80 * images / batch_size)))
