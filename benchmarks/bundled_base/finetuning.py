"""A fine-tune of a whole base in one go, as a worker runs it slice by slice."""

from collections.abc import Callable, Iterable

from PIL import Image

from core.artifact.sites import Method, MethodSites
from core.artifact.training import TrainingSettings
from core.ml.evaluation.drawings import Drawings
from core.ml.model.checkpoint import LoadedBase
from core.ml.tuning.finetune import finetune
from core.ml.tuning.plan import Event, FinetunePlan, Outcome


def fine_tuned(
    base: LoadedBase,
    class_names: tuple[str, ...],
    images: Iterable[tuple[int, Image.Image]],
    method: Method,
    sites: MethodSites,
    *,
    training: TrainingSettings,
    on_event: Callable[[Event | None], None],
) -> Outcome:
    """Fine-tunes on (class id, image) pairs. Writes no checkpoints, and one grid of samples at the end, as every
    fine-tune does."""
    plan = FinetunePlan(
        method=method,
        sites=sites,
        class_names=class_names,
        dataset_digest="",
        training=training,
        checkpoint_every=training.steps + 1,
        samples_every=training.steps + 1,
    )
    work = finetune(base, plan, images)
    while True:
        try:
            event = next(work)
        except StopIteration as end:
            outcome: Outcome = end.value
            return outcome
        if event is None or isinstance(event, Event):
            on_event(event)


def labelled(drawings: Drawings) -> list[tuple[int, Image.Image]]:
    """Returns (class id, image) pairs, as a fine-tune takes them."""
    images = [Image.fromarray(picture.permute(1, 2, 0).numpy()) for picture in drawings.pixels]
    return list(zip(drawings.labels.tolist(), images, strict=True))
