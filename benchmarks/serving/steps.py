"""Measures the engine's overhead over its forwards, and its model evaluations (forwards of one batch row) per
second."""

import statistics

from benchmarks.report import Measure
from benchmarks.serving.load import MAX_ROWS, Serving, request
from benchmarks.serving.measure import Repetitions, in_turns
from benchmarks.serving.subjects import Subject

OVERHEAD_LIMIT = 3.0
ROWS_IN_FLIGHT = (1, 2, 4, 8, 16, 32)


def overhead(subject: Subject, repetitions: Repetitions) -> list[Measure]:
    """Measures the percentage of a sampling step's time that is not spent in the forward, with 16 guided images of 16
    domains in flight."""
    tensors = subject.adapter(0)
    domains = {str(index): tensors for index in range(MAX_ROWS // 2)}

    def share() -> float:
        before = engine.engine.stats()
        engine.seconds([request(domain, steps=2 * subject.steps) for domain in domains])
        after = engine.engine.stats()
        step, forward = (after[name] - before[name] for name in ("step_seconds", "forward_seconds"))
        return 100 * (1 - forward / step)

    with Serving(subject, domains) as engine:
        samples = in_turns({"percent": share}, repetitions.engine)
    return [
        Measure(
            name="engine's part of a step: time outside the forward",
            subject=subject.name,
            value=statistics.median(samples["percent"]),
            limit=OVERHEAD_LIMIT,
            best="lowest",
            unit="%",
            samples=samples,
        )
    ]


def throughput(subject: Subject, repetitions: Repetitions) -> list[Measure]:
    """Measures model evaluations per second, including the decoding of images, with 1 to 32 batch rows in flight. Each
    row belongs to an image without guidance, of a separate domain."""
    tensors = subject.adapter(0)
    domains = {str(index): tensors for index in range(MAX_ROWS)}
    steps = 2 * subject.steps

    def rate(rows: int) -> float:
        requests = [request(str(index), steps=steps, guidance_scale=1.0) for index in range(rows)]
        return rows * steps / engine.seconds(requests)

    with Serving(subject, domains) as engine:
        sides = {str(rows): (lambda rows=rows: rate(rows)) for rows in ROWS_IN_FLIGHT}
        samples = in_turns(sides, repetitions.engine)
    return [
        Measure(
            name=f"row-steps a second, {rows} in flight",
            subject=subject.name,
            value=statistics.median(samples[str(rows)]),
            unit="rows/s",
            samples={str(rows): samples[str(rows)]},
        )
        for rows in ROWS_IN_FLIGHT
    ]
