"""The recipe of a training run, as plain values."""

from dataclasses import asdict, dataclass
from typing import Any, Literal, Self

PRETRAINING_RATE = 1e-4
"""The rate of DiT's pre-training and of full fine-tuning. The paper gives the others as ratios to it (Table 4d)."""


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """The paper's recipe by default, with fewer steps and a smaller batch.

    A new setting must, by default, train as before it was there: rows and checkpoints of earlier releases lack it.
    """

    steps: int
    batch_size: int = 32
    learning_rate: float = 10 * PRETRAINING_RATE
    """Constant after `warmup_steps`: the paper's for parameter-efficient methods."""
    warmup_steps: int = 0
    decay_steps: int = 0
    """The rate falls linearly to zero over this many last steps."""
    label_dropout: float = 0.1
    ema_decay: float = 0.9999
    gradient_clip: float | None = None
    """Largest norm of the gradient of all trainables together."""
    minimum_snr_gamma: float | None = None
    """Weights the squared error by min(SNR, gamma) / SNR (arXiv 2303.09556); None is the paper's plain mean."""
    timesteps: Literal["independent", "stratified", "focused"] = "independent"
    """"stratified" draws one timestep from each of `batch_size` equal parts: the same distribution, less noise in the
    gradient (arXiv 2107.00630, appendix I.1). "focused" gives 85 % of these parts to the timesteps below 600, in
    which an image takes shape: above, where noise is nearly all, a model soon learns what there is (arXiv 2405.17403).
    """
    sampling: Literal["shuffled", "balanced"] = "shuffled"
    """"shuffled" goes through the data again and again in new orders; "balanced" draws a class, then an image."""
    held_out_fraction: float = 0.1
    micro_batch_size: int | None = None
    """Images of a batch that pass at once, at most: a smaller number needs less memory, and gradients are summed. The
    sums' rounding is all that it changes."""
    seed: int = 0

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Self:
        return cls(**values)


DEFAULT_TRAINING = TrainingSettings(steps=400, gradient_clip=1.0)
"""Recipe of a fine-tune, on a server and in a folder, where a request does not change it."""
