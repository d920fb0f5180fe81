"""Compares the engine with its alternatives on the same load: 16 domains that all request images at once."""

import random
from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.report import Measure, Samples
from benchmarks.serving.load import GUIDANCE, MAX_ROWS, Serving, request
from benchmarks.serving.measure import Repetitions, in_turns, median_ratio, seconds
from benchmarks.serving.subjects import CLASSES, Kind, Subject

DOMAINS = 16
SWAPPING_LIMITS: dict[Kind, float | None] = {"mini": 1.3, "wide": None, "full": 5.0}
PEFT_LIMIT = 1.2


@dataclass(frozen=True)
class Wish:
    """A request for one or two images of a domain."""

    domain: str
    classes: list[int]
    seeds: list[int]


def wishes() -> list[Wish]:
    """Returns one request per domain, in random order: for one image if the domain's number is even, for two images of
    one class if it is odd."""
    order = random.Random(0).sample(range(DOMAINS), DOMAINS)
    return [_wish(index) for index in order]


def swapping(subject: Subject, repetitions: Repetitions) -> list[Measure]:
    """Compares the engine with diffusers' pipeline, which runs requests one after another and swaps in each domain's
    weights."""
    from benchmarks.baselines.swapping import SwappingPipeline

    domains = {str(index): subject.adapter(index) for index in range(DOMAINS)}
    pipeline = SwappingPipeline.of(subject.dit, subject.autoencoder, domains)
    if subject.compile:
        pipeline.transformer.compile()

    def draw_all() -> None:
        for wish in wishes():
            pipeline.draw(wish.domain, wish.classes, wish.seeds, steps=subject.steps, guidance_scale=GUIDANCE)

    samples = _beside_the_engine(subject, repetitions, "diffusers, swapping weights", draw_all)
    return [
        Measure(
            name=f"images a second, {DOMAINS} domains mixed / diffusers' pipeline that swaps weights",
            subject=subject.name,
            value=median_ratio(samples, "diffusers, swapping weights", "engine"),
            limit=SWAPPING_LIMITS[subject.kind],
            samples=samples,
        )
    ]


def peft(subject: Subject, repetitions: Repetitions) -> list[Measure]:
    """Compares the engine with PEFT's mixed batch of LoRA adapters of rank 8, at the engine's batch size."""
    from benchmarks.baselines.peft_batch import PeftBatch

    batch = PeftBatch(subject.dit, subject.autoencoder, [str(index) for index in range(DOMAINS)])
    images = [(wish.domain, id, seed) for wish in wishes() for id, seed in zip(wish.classes, wish.seeds, strict=True)]

    def draw_all() -> None:
        for start in range(0, len(images), MAX_ROWS // 2):
            names, classes, seeds = zip(*images[start : start + MAX_ROWS // 2], strict=True)
            batch.draw(list(names), list(classes), list(seeds), steps=subject.steps, guidance_scale=GUIDANCE)

    samples = _beside_the_engine(subject, repetitions, "PEFT", draw_all)
    return [
        Measure(
            name=f"images a second, {DOMAINS} domains mixed / PEFT's mixed batch, LoRA r = 8",
            subject=subject.name,
            value=median_ratio(samples, "PEFT", "engine"),
            limit=PEFT_LIMIT,
            samples=samples,
        )
    ]


def _beside_the_engine(subject: Subject, repetitions: Repetitions, name: str, draw_all: Callable[[], None]) -> Samples:
    """Returns samples of the seconds that the whole load takes, for the alternative (`draw_all`) and for the engine."""
    domains = {str(index): subject.adapter(index) for index in range(DOMAINS)}

    def requests() -> float:
        return engine.seconds(
            [
                request(wish.domain, steps=subject.steps, seeds=tuple(wish.seeds), class_id=wish.classes[0])
                for wish in wishes()
            ]
        )

    with Serving(subject, domains) as engine:
        return in_turns({name: lambda: seconds(draw_all), "engine": requests}, repetitions.engine)


def _wish(index: int) -> Wish:
    images = 1 + index % 2
    return Wish(str(index), [index % CLASSES] * images, [2 * index + image for image in range(images)])
