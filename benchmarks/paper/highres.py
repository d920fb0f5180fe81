"""Reruns Figure 5 of the DiffFit paper: the bundled base at twice its resolution, with and without the positional
encoding trick.

DiffFit trains on the base's own training images at 128 pixels instead of 64, with the class table frozen (section 4.3
of the paper). With the trick, the position (i, j) of the larger grid is encoded as (i/2, j/2), which is in the range
that the base knows; without it, three quarters of the positions are new to the base. Held-out emoji give two scores:
the diffusion loss on their latents, and the feature distance of generated images to them, with all images resized to
the classifier's 64 pixels.
"""

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from PIL import Image
from torch import Tensor

from benchmarks.bundled_base.pictures import Artist, alike
from benchmarks.paper.curves import Figure, Line, Started, identity_of, options_of
from benchmarks.paper.settings import judges_of, loaded_base, parsed, sampling_of
from core.artifact.sites import PRESETS, trainable_shapes
from core.artifact.training import PRETRAINING_RATE, TrainingSettings
from core.ml.evaluation.drawings import is_held_out, to_bytes
from core.ml.evaluation.yardsticks import Judges
from core.ml.model.adapter import TensorAdapter
from core.ml.model.checkpoint import LoadedBase
from core.ml.model.dit import DiT
from core.ml.tuning.latents import Latents, concatenate, encode_images
from core.ml.tuning.start import start_tensors
from core.ml.tuning.trainer import Trainer
from recipes.drawings import CLASS_TABLE, read_classes, render_set
from recipes.packages import TRAINING_SETS

LINES = {"with the trick": 0.5, "without": 1.0}
"""Factor by which the coordinates of the larger grid are multiplied, for each curve."""
FIGURE = Figure(
    name="highres",
    title="Figure 5: twice the resolution, with and without the positional encoding trick",
    text=(
        "DiffFit takes the bundled base from 64 to 128 pixels on its own training drawings; the class table is frozen. "
        "Losses are of drawings that it has not seen; distances are feature distances of pictures to those, no FID."
    ),
    scores=("held-out loss", "feature distance"),
    panel=lambda point: str(point["classes"]),
)


def main(arguments: Sequence[str] | None = None) -> None:
    options = parsed(options_of(FIGURE.name, __doc__), arguments)
    base = loaded_base(options)
    bench = Bench.of(base, options)
    classes = f"{base.dit.config.num_classes} classes, 64 to {bench.size} pixels"
    lines = [
        Line({"line": name, "classes": classes, "seed": seed}, partial(bench.start, scale, seed))
        for seed in range(options.seeds)
        for name, scale in LINES.items()
    ]
    FIGURE.run(lines, identity_of(base, bench.judges, options), options)


@dataclass(frozen=True)
class Bench:
    """Setup that both curves share."""

    base: LoadedBase
    judges: Judges
    seen: Latents
    unseen: Latents
    real: Tensor
    """Held-out images, whose latents are `unseen`, [K, 3, S, S] uint8."""
    options: argparse.Namespace

    @classmethod
    def of(cls, base: LoadedBase, options: argparse.Namespace) -> "Bench":
        size = 2 * base.description.image_size
        drawn = list(_drawings(base, size, options))
        seen, unseen = ([pair for held_out, pair in drawn if held_out is side] for side in (False, True))
        old, new = (concatenate(list(encode_images(part, base.autoencoder.encode, size))) for part in (seen, unseen))
        real = to_bytes([picture for _, picture in unseen], size)
        return cls(base, judges_of(options), seen=old, unseen=new, real=real, options=options)

    @property
    def size(self) -> int:
        return 2 * self.base.description.image_size

    def start(self, position_scale: float, seed: int) -> Started:
        options, base = self.options, replace(self.base, dit=enlarged(self.base.dit, position_scale))
        shapes = trainable_shapes(base.dit.config, "difffit", PRESETS["paper"], None)
        start = start_tensors(base.dit, shapes, torch.Generator().manual_seed(seed))
        settings = TrainingSettings(
            steps=max(options.at),
            batch_size=options.batch_size,
            learning_rate=10 * PRETRAINING_RATE,
            gradient_clip=1.0,
            held_out_fraction=0,
            seed=seed,
        )
        trainer = Trainer(base.dit, start, self.seen, settings)
        trainer.held_out = self.unseen
        labels = alike(self.unseen.labels, options.pictures)
        artist = Artist.of_base(base, sampling_of(options))

        def score(tensors: Mapping[str, Tensor]) -> Mapping[str, float]:
            pictures = replace(artist, adapter=TensorAdapter(tensors)).draw(labels, "drawing")
            loss = trainer.held_out_loss(tensors, repeats=1)
            return {"held-out loss": loss} | {
                yardstick.name: yardstick.distance(pictures, self.real) for yardstick in self.judges.yardsticks
            }

        return trainer, score


def enlarged(dit: DiT, position_scale: float) -> DiT:
    """Returns a DiT with the weights of `dit` for latents of twice the side, whose grid coordinates are multiplied by
    `position_scale`."""
    larger = DiT(replace(dit.config, input_size=2 * dit.config.input_size, position_scale=position_scale))
    larger.load_state_dict(dit.state_dict(), assign=True)
    return larger.to(dit.positions.device).requires_grad_(False)


def _drawings(
    base: LoadedBase, size: int, options: argparse.Namespace
) -> Iterator[tuple[bool, tuple[int, Image.Image]]]:
    """Yields (is held out, (class id, image)) for the images of all emoji sets that the base was trained on."""
    names = base.description.class_names
    classes = read_classes(CLASS_TABLE, options.cache)
    for package in TRAINING_SETS.values():
        for label, emoji, picture in render_set(package, classes, options.cache, size):
            yield is_held_out(emoji), (names.index(label), picture)
