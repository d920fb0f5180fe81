"""Measures whether an image depends on the other images in its batch."""

import random
from collections.abc import Sequence

import torch
from torch import Tensor

from benchmarks.report import Measure
from benchmarks.serving.load import Serving
from benchmarks.serving.measure import Repetitions
from benchmarks.serving.subjects import CLASSES, Subject
from core.artifact.sampling import SamplingSettings
from core.ml.diffusion.samplers import SAMPLERS
from core.ml.serving.request import ImageRequest, Row

POOL = 40
NEIGHBOURS = range(2, 13)
DOMAINS = 16
LATENT_LIMIT = 1e-4


def solo(subject: Subject, repetitions: Repetitions) -> list[Measure]:
    """Generates images for requests with random samplers, steps, guidance, adapters and seeds: first each alone, then
    in random mixes of 2 to 12 requests that share batches. On the CPU the images must be equal bit for bit. On a GPU,
    in fp32, latents may differ by 1e-4 if the batch size may choose the kernel; in exact mode, with one batch size,
    they must be equal."""
    if subject.device.type == "cpu":
        return [_equal_images(subject, repetitions)]
    fp32 = subject.in_fp32()
    return [_latents(fp32, repetitions, exact=False), _latents(fp32, repetitions, exact=True)]


def _equal_images(subject: Subject, repetitions: Repetitions) -> Measure:
    pool, mixes = _pool(subject), _mixes(repetitions)
    with Serving(subject, _domains(subject)) as engine:
        alone = [engine.submit(request).result().images[0] for request in pool]
        checks = []
        for mix in mixes:
            waiting = [(index, engine.submit(pool[index])) for index in mix]
            checks += [torch.equal(drawn.result().images[0], alone[index]) for index, drawn in waiting]
    return Measure(
        name=f"images that equal their solo run bit for bit, over {len(mixes)} random mixes",
        subject=subject.name,
        value=sum(checks) / len(checks),
        limit=1.0,
        unit="of all",
        note=f"{sum(checks):,} of {len(checks):,} images",
    )


def _latents(subject: Subject, repetitions: Repetitions, *, exact: bool) -> Measure:
    pool, mixes = _pool(subject), _mixes(repetitions)
    engine = Serving(subject, _domains(subject), exact=exact)
    alone = [latents_of(engine, [request])[0] for request in pool]
    differences = []
    for mix in mixes:
        together = latents_of(engine, [pool[index] for index in mix])
        pairs = zip(mix, together, strict=True)
        differences += [float((latent - alone[index]).abs().max()) for index, latent in pairs]
    engine.cache.close()
    mode = "exact mode" if exact else "any batch size"
    return Measure(
        name=f"largest difference of a latent from its solo run, {mode}, over {len(mixes)} random mixes",
        subject=subject.name,
        value=max(differences),
        limit=0.0 if exact else LATENT_LIMIT,
        best="lowest",
        unit="difference",
        note=f"{sum(difference == 0 for difference in differences):,} of {len(differences):,} latents are equal",
    )


def latents_of(engine: Serving, requests: Sequence[ImageRequest]) -> list[Tensor]:
    """Returns the final latents [C, H, W] of requests that step in one batch, which each request leaves after its last
    sampling step."""
    rows = [Row(request, 0) for request in requests]
    for row in rows:
        engine.runner.start(row, engine.folded(str(row.request.adapter)))
    while unfinished := [row for row in rows if not row.finished]:
        engine.runner.step(unfinished)
        for row in unfinished:
            row.position += 1
        engine.runner.wait()
    latents = [engine.runner.latent(row) for row in rows]
    for row in rows:
        engine.runner.end(row)
    return latents


def _pool(subject: Subject) -> list[ImageRequest]:
    chance = random.Random(0)
    return [_random_request(chance, index, max_steps=subject.steps) for index in range(POOL)]


def _random_request(chance: random.Random, index: int, max_steps: int) -> ImageRequest:
    sampler = chance.choice(SAMPLERS)
    return ImageRequest(
        id=str(index),
        tenant=str(chance.randrange(4)),
        adapter=str(chance.randrange(DOMAINS)),
        class_id=chance.randrange(CLASSES),
        seeds=(chance.randrange(2**31),),
        sampling=SamplingSettings(
            steps=chance.randint(1, max_steps),
            guidance_scale=chance.choice([1.0, chance.uniform(1.5, 8.0)]),
            guidance_interval=chance.choice([(0, 999), (200, 800)]),
            sampler=sampler,
            eta=chance.choice([0.0, 0.5, 1.0]) if sampler == "ddim" else 0.0,
        ),
    )


def _mixes(repetitions: Repetitions) -> list[list[int]]:
    chance = random.Random(1)
    return [chance.sample(range(POOL), chance.choice(NEIGHBOURS)) for _ in range(repetitions.mixes)]


def _domains(subject: Subject) -> dict[str, dict[str, Tensor]]:
    return {str(index): subject.adapter(index) for index in range(DOMAINS)}
