"""Trains the classifier whose features give the feature distance, on real drawings: `python -m recipes.classifier`.

Run `python -m recipes.drawings` first. The classifier learns from the base's three training sets and from OpenMoji, so
that it can judge both styles; one emoji in five is held out of all four sets. Writes `classifier.safetensors` and
`classifier.json`, with the held-out accuracy, into `<output>`. The run is seeded and takes about 15 minutes on one
core.
"""

import argparse
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

from core.ml.evaluation.classifier import IMAGE_SIZE, Classifier, load_classifier, save_classifier, unit
from core.ml.evaluation.drawings import HELD_OUT_EVERY, HELD_OUT_REMAINDER, Drawings, joined, read_drawings

TURN, SHIFT, SCALES = math.radians(20), 0.15, (0.75, 1.3)
"""Limits of the augmentation: largest rotation in radians, largest shift as a fraction of half the side, smallest and
largest scale."""
HOLE, DROPOUT = 24, 0.2
"""Side in pixels of the square that is erased from half of the training images, and fraction of features that dropout
sets to zero."""
WARM_UP = 0.1
"""Fraction of the training steps over which the learning rate rises."""


@dataclass(frozen=True)
class Recipe:
    epochs: int = 60
    batch_size: int = 64
    learning_rate: float = 3e-3
    weight_decay: float = 0.05
    label_smoothing: float = 0.1
    set_weight: float = 0.25
    """Weight of the loss on emoji sets, relative to the loss on classes."""
    seed: int = 0


def main() -> None:
    options = _options()
    torch.set_num_threads(options.threads)
    drawings, openmoji = (read_drawings(folder, IMAGE_SIZE) for folder in (options.drawings, options.openmoji))
    openmoji = replace(openmoji, sets=("openmoji",) * len(openmoji))  # OpenMoji's file names do not contain the set
    seen, _ = joined(drawings, openmoji).split()
    recipe = Recipe(epochs=options.epochs, seed=options.seed)
    started = time.monotonic()
    classifier = train(seen, recipe)
    seconds = round(time.monotonic() - started)
    options.output.mkdir(parents=True, exist_ok=True)
    save_classifier(options.output, classifier, {})
    stored, _ = load_classifier(options.output)  # reloaded as it ships, in half precision
    figures = {
        "held_out": f"emoji whose name's CRC-32 is {HELD_OUT_REMAINDER} modulo {HELD_OUT_EVERY}, in all sets",
        "held_out_accuracy": {"drawings": accuracy(stored, drawings), "openmoji": accuracy(stored, openmoji)},
        "held_out_accuracy_of_sets": set_accuracy(stored, joined(drawings, openmoji)),
        "trained_on": len(seen),
        "recipe": vars(recipe),
        "seconds": seconds,
    }
    save_classifier(options.output, stored, figures)
    print(figures)


def accuracy(classifier: Classifier, drawings: Drawings) -> float:
    """Returns the fraction of held-out drawings that the classifier assigns to the right class."""
    _, unseen = drawings.split()
    return round((classifier.judge(unseen.pixels).classes == unseen.labels).double().mean().item(), 4)


def set_accuracy(classifier: Classifier, drawings: Drawings) -> float:
    """Returns the fraction of held-out drawings that the classifier assigns to the right emoji set."""
    _, unseen = drawings.split()
    sets = torch.tensor([classifier.set_names.index(name) for name in unseen.sets])
    return round((classifier.judge(unseen.pixels).sets == sets).double().mean().item(), 4)


def train(drawings: Drawings, recipe: Recipe) -> Classifier:
    """Trains a classifier with cross-entropy and AdamW; the learning rate rises, then falls along a cosine."""
    torch.manual_seed(recipe.seed)
    generator = torch.Generator().manual_seed(recipe.seed)
    set_names = tuple(sorted(set(drawings.sets)))
    sets = torch.tensor([set_names.index(name) for name in drawings.sets])
    classifier = Classifier(drawings.class_names, set_names).train()
    classifier.stages.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # not in torch's stubs
    optimizer = torch.optim.AdamW(classifier.parameters(), recipe.learning_rate, weight_decay=recipe.weight_decay)
    steps = recipe.epochs * (len(drawings) // recipe.batch_size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, recipe.learning_rate, total_steps=steps, pct_start=WARM_UP, cycle_momentum=False
    )
    batches = _batches(len(drawings), recipe, generator)
    for chosen in tqdm(batches, total=steps, desc="training", mininterval=10):
        features = functional.dropout(classifier(augment(drawings.pixels[chosen], generator)), DROPOUT)
        of_class = functional.cross_entropy(
            classifier.classes(features), drawings.labels[chosen], label_smoothing=recipe.label_smoothing
        )
        of_set = functional.cross_entropy(classifier.sets(features), sets[chosen])
        optimizer.zero_grad()
        (of_class + recipe.set_weight * of_set).backward()
        optimizer.step()
        schedule.step()
    return classifier.eval()


def _batches(count: int, recipe: Recipe, generator: torch.Generator) -> Iterator[Tensor]:
    """Yields batches of indices of drawings, in a new random order each epoch. Drawings that do not fill the last batch
    of an epoch are skipped in that epoch."""
    for _ in range(recipe.epochs):
        order = torch.randperm(count, generator=generator)
        yield from order[: count // recipe.batch_size * recipe.batch_size].split(recipe.batch_size)


def augment(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Augments images, uint8 [B, 3, S, S], and returns them in [-1, 1]: mirrored, rotated, shifted, scaled, tinted, and
    with a square erased, at random, on white.

    Images may be mirrored, since no class distinguishes left from right.
    """
    count = len(pixels)

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(count, *shape, generator=generator)

    ink = (1 - unit(pixels)) / 2  # white is 0, so that a shift fills the uncovered area with white
    flip = torch.where(uniform(0, 1) < 0.5, -1.0, 1.0)
    width, height, angle = uniform(*SCALES), uniform(*SCALES), uniform(-TURN, TURN)
    rows = [
        *(flip * width * angle.cos(), -height * angle.sin(), uniform(-SHIFT, SHIFT)),
        *(flip * width * angle.sin(), height * angle.cos(), uniform(-SHIFT, SHIFT)),
    ]
    grid = functional.affine_grid(torch.stack(rows, 1).view(count, 2, 3), list(ink.shape), align_corners=False)
    ink = functional.grid_sample(ink, grid, align_corners=False)
    grey = ink.mean(1, keepdim=True)
    ink = grey + (ink - grey) * uniform(0.5, 1.3, 1, 1, 1)
    ink = ink * uniform(0.75, 1.2, 1, 1, 1) * uniform(0.8, 1.2, 3, 1, 1)
    axis = torch.arange(ink.shape[-1])
    inside = [(axis - uniform(0, len(axis) - HOLE, 1)).sub(HOLE / 2).abs() < HOLE / 2 for _ in range(2)]  # [B, S] each
    hole = inside[0][:, None, :, None] & inside[1][:, None, None, :] & (uniform(0, 1, 1, 1, 1) < 0.5)
    ink = ink.masked_fill(hole, 0.0)
    return (1 - 2 * ink).clamp(-1, 1).contiguous(memory_format=torch.channels_last)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--drawings", type=Path, default=Path("build/drawings"))
    parser.add_argument("--openmoji", type=Path, default=Path("build/openmoji"))
    parser.add_argument("--output", type=Path, default=Path("core/ml/evaluation"))
    parser.add_argument("--epochs", type=int, default=Recipe.epochs)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


if __name__ == "__main__":
    main()
