"""Runs a whole fine-tune at once, with the code that a worker runs in slices between its sampling steps."""

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
    """Fine-tunes `base` on (class id, image) pairs and returns the outcome. Passes all events to `on_event`; there are
    no checkpoints, and only one grid of sample images, at the end."""
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
    """Returns the drawings as (class id, image) pairs, the form that a fine-tune takes."""
    images = [Image.fromarray(picture.permute(1, 2, 0).numpy()) for picture in drawings.pixels]
    return list(zip(drawings.labels.tolist(), images, strict=True))
