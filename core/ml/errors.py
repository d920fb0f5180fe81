"""Errors that the model code raises when it loads a base, generates images or trains."""

from core.artifact.errors import CoreError


class BaseMissing(CoreError):
    code, status, title = "base_missing", 500, "Base not found"

    def __init__(self, reference: str, reason: str) -> None:
        super().__init__(f"The base '{reference}' cannot be loaded: {reason} Set DIFFFIT_BASE_MODEL.")


class CheckpointInvalid(CoreError):
    code, status, title = "checkpoint_invalid", 500, "Checkpoint cannot be used"


class DeadlineExceeded(CoreError):
    code, status, title = "deadline_exceeded", 504, "Deadline passed"

    def __init__(self) -> None:
        super().__init__("The deadline passed before the images were finished. Use fewer steps or a later deadline.")


class DrawingDiverged(CoreError):
    code, status, title = "drawing_diverged", 500, "Generation diverged"

    def __init__(self) -> None:
        super().__init__(
            "The values of an image became infinite or NaN. Use a lower guidance scale or another adapter."
        )


class TrainingDiverged(CoreError):
    code, status, title = "training_diverged", 500, "Training diverged"

    def __init__(self, step: int) -> None:
        super().__init__(
            f"The loss became infinite or NaN at step {step}. Use a lower learning rate or gradient clipping."
        )


class TrainingOutOfMemory(CoreError):
    code, status, title = "out_of_memory", 500, "Out of memory"

    def __init__(self, reason: str = "a single image does not fit into the worker's memory") -> None:
        super().__init__(f"Training ran out of memory: {reason}. Use a smaller batch_size or image_size.")
