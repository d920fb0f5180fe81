"""Measures how close the demo's fine-tune brings the bundled base to OpenMoji's style.

Generated images are compared with OpenMoji images that the fine-tune does not see. One group is a fifth of the sample
domain's emoji, which are held out from the classifier's training too. The other is OpenMoji's further emoji of the same
classes, which the sample domain leaves out; the classifier was trained on most of them.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import Progress as Bar
from torch import Tensor

from benchmarks.bundled_base.finetuning import fine_tuned, labelled
from benchmarks.bundled_base.pictures import Artist, alike, served, serving
from benchmarks.bundled_base.quality import copies
from benchmarks.report import Measure
from core.artifact.sites import PRESETS
from core.artifact.training import TrainingSettings
from core.ml.bundled import sample_domain_folder
from core.ml.evaluation.classifier import IMAGE_SIZE, unit
from core.ml.evaluation.drawings import Drawings, read_drawings
from core.ml.evaluation.yardsticks import DISTANCES, Judges
from core.ml.model.checkpoint import LoadedBase
from core.ml.tuning.latents import image_grid, to_image
from core.ml.tuning.plan import Event, Outcome, Progress

FALL = 0.55
"""Minimum fraction by which the fine-tune must reduce the classifier's distance to held-out images."""
GRID = 64


@dataclass(frozen=True)
class Domain:
    artist: Artist
    judges: Judges
    openmoji: Path
    count: int
    steps: int
    """Training steps of the fine-tune."""
    output: Path

    def figures(self) -> Iterator[Measure]:
        seen, _ = read_drawings(sample_domain_folder(), IMAGE_SIZE).split()
        names = self.artist.base.description.class_names
        in_base = [name in names for name in seen.class_names]
        held_out = of_classes(unseen_openmoji(self.openmoji), in_base)
        outcome, seconds = train(self.artist.base, seen, self.steps)
        note = f"{self.steps} steps on {len(seen)} drawings, {torch.get_num_threads()} threads"
        yield Measure(name="fine-tune", value=seconds, unit="s", note=note)
        labels = alike(held_out.labels, self.count)
        base_labels = torch.tensor([names.index(seen.class_names[label]) for label in labels.tolist()])
        adapter, every = ("domain", lambda: outcome.tensors), alike(torch.arange(len(seen.class_names)), GRID)
        with serving(self.artist.base) as resident:
            before, _ = served(resident, base_labels, self.artist.sampling)
            after, _ = served(resident, labels, self.artist.sampling, adapter)
            grid, _ = served(resident, every, self.artist.sampling, adapter)
        yield from self._distances(before, after, held_out, of_classes(seen, in_base))
        image_grid([to_image(picture) for picture in unit(grid)], columns=8).save(self.output / "domain.png")
        yield copies(after, seen.pixels, self.judges, self.output / "domain-neighbours.png", "domain")

    def _distances(self, before: Tensor, after: Tensor, held_out: Drawings, seen: Drawings) -> Iterator[Measure]:
        for yardstick in self.judges.yardsticks:
            base, domain, real = (
                yardstick.distance(pictures, held_out.pixels) for pictures in (before, after, seen.pixels)
            )
            to = f"{yardstick.name} to {len(held_out)} held-out OpenMoji"
            yield Measure(name=f"{to}, base", value=base, unit="distance", note=f"{len(before)} pictures")
            yield Measure(name=f"{to}, domain", value=domain, unit="distance", note=f"{len(after)} pictures")
            note = f"{len(seen)} real ones: what is left"
            yield Measure(name=f"{to}, the fine-tune's drawings", value=real, unit="distance", note=note)
            limit = 100 * FALL if yardstick.name == DISTANCES[0] else None
            fall = 100 * (1 - domain / base)
            yield Measure(name=f"{yardstick.name}, fall", value=fall, unit="%", limit=limit, best="highest")


def unseen_openmoji(folder: Path) -> Drawings:
    """Returns the OpenMoji images of the sample domain's classes that the fine-tune does not see.

    Raises FileNotFoundError if `folder`, which `python -m recipes.drawings` writes, has no images.
    """
    sample = read_drawings(sample_domain_folder(), IMAGE_SIZE)
    _, held_out = sample.split()
    others = read_drawings(folder, IMAGE_SIZE)
    ours = {name: place for place, name in enumerate(sample.class_names)}
    trained = set(sample.emoji)
    names = [others.class_names[label] for label in others.labels.tolist()]
    more = [k for k, name in enumerate(names) if name in ours and others.emoji[k] not in trained]
    return Drawings(
        torch.cat([held_out.pixels, others.pixels[more]]),
        torch.cat([held_out.labels, torch.tensor([ours[names[k]] for k in more], dtype=torch.long)]),
        held_out.emoji + tuple(others.emoji[k] for k in more),
        held_out.sets + tuple(others.sets[k] for k in more),
        sample.class_names,
    )


def of_classes(drawings: Drawings, wanted: list[bool]) -> Drawings:
    """Returns the images of the wanted classes; `wanted` has a flag for each entry of `class_names`. It restricts the
    comparison to classes that the base knows too."""
    return drawings.subset(torch.tensor(wanted)[drawings.labels].nonzero().flatten())


def train(base: LoadedBase, drawings: Drawings, steps: int) -> tuple[Outcome, float]:
    """Fine-tunes with the demo's settings and a worker's defaults. Returns the outcome and the seconds of the training
    steps."""
    training = TrainingSettings(steps=steps, batch_size=32, learning_rate=1e-3, seed=0, gradient_clip=1.0)
    seconds = 0.0
    with Bar(console=Console(stderr=True)) as bar:
        task = bar.add_task("fine-tuning", total=steps)

        def count(event: Event | None) -> None:
            nonlocal seconds
            if isinstance(event, Progress):
                seconds += event.seconds
                bar.update(task, completed=event.step)

        images, sites = labelled(drawings), PRESETS["paper"]
        outcome = fine_tuned(base, drawings.class_names, images, "difffit", sites, training=training, on_event=count)
    return outcome, seconds
