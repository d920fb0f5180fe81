"""Measures the scheduler's fairness: how long other tenants' requests delay a request."""

import threading
import time
from concurrent.futures import wait

from torch import Tensor

from benchmarks.report import Measure
from benchmarks.serving.load import MAX_ROWS, Serving, request
from benchmarks.serving.measure import Repetitions, in_turns, median_ratio
from benchmarks.serving.subjects import Subject
from core.ml.serving.request import ImageRequest

LONG = 250
JOINING_LIMIT = 1.3
FLOOD = 200
FLOOD_LIMIT = 2.0
EQUALS = MAX_ROWS // 2


def joining(subject: Subject, repetitions: Repetitions) -> list[Measure]:
    """Compares the time of a short request that arrives while a request of 250 sampling steps runs with its time when
    it arrives while another short request runs. The batch has the same size in both cases."""
    left: list[float] = []

    def beside(steps: int) -> float:
        other = request("other", steps=steps)
        result, progress = _time_of(engine, request("short", steps=subject.steps), [other])
        if steps == LONG:
            left.append((1 - progress) * steps)
        return result

    with Serving(subject, _domains(subject, "other", "short")) as engine:
        samples = in_turns(
            {"beside a long one": lambda: beside(LONG), "beside a short one": lambda: beside(subject.steps + 5)},
            repetitions.engine,
        )
    return [
        Measure(
            name=f"a request of {subject.steps} steps that joins one of {LONG} / one of {subject.steps + 5}",
            subject=subject.name,
            value=median_ratio(samples, "beside a long one", "beside a short one"),
            limit=JOINING_LIMIT,
            best="lowest",
            samples=samples,
            note=f"the long one had at least {min(left):.0f} of {LONG} steps left when the short one was done",
        )
    ]


def flood(subject: Subject, repetitions: Repetitions) -> list[Measure]:
    """Measures the time from submission to image of a request that arrives while another tenant's 200 requests run and
    wait, and compares it with two cases without a flood:

    - in a full batch: as many tenants as fill the batch have one equal request each. A sampling step then takes as long
      as in the flood, so that the ratio depends on the scheduler alone. The limit applies to this case.
    - beside one request: one other tenant has one equal request, and the batch is otherwise empty. On a device that few
      batch rows keep busy, a sampling step of few rows is shorter than one of many, which no scheduler that fills its
      batch can make up for. This case therefore has no limit.
    """
    steps = 2 * subject.steps

    def among(others: list[ImageRequest]) -> float:
        return _time_of(engine, request("one", tenant="one", steps=steps), others)[0]

    with Serving(subject, _domains(subject, "one", "flood")) as engine:
        samples = in_turns(
            {
                "in a flood": lambda: among([_of("flood", steps) for _ in range(FLOOD)]),
                "in a full batch": lambda: among([_of(str(index), steps) for index in range(EQUALS - 1)]),
                "beside one": lambda: among([_of("other", steps)]),
            },
            repetitions.engine,
        )
    return [
        Measure(
            name=f"a request among {FLOOD} of one tenant / {name}",
            subject=subject.name,
            value=median_ratio(samples, "in a flood", side),
            limit=limit,
            best="lowest",
            samples={key: samples[key] for key in ("in a flood", side)},
        )
        for name, side, limit in (
            (f"among {EQUALS - 1} of {EQUALS - 1} tenants", "in a full batch", FLOOD_LIMIT),
            ("among 1 of one tenant", "beside one", None),
        )
    ]


def _time_of(engine: Serving, short: ImageRequest, others: list[ImageRequest]) -> tuple[float, float]:
    """Submits `short` when the first of `others` has made a sampling step. Returns the seconds from its submission to
    its image, and the fraction of its sampling steps that the first of `others` has made by then. Then cancels
    `others`."""
    stepping = threading.Event()
    progress = [0.0]

    def on_step(share: float, _: int) -> None:
        progress[0] = share
        stepping.set()

    waiting = [engine.submit(other, on_step if other is others[0] else lambda *_: None) for other in others]
    stepping.wait()
    started = time.perf_counter()
    engine.submit(short).result()
    elapsed, reached = time.perf_counter() - started, progress[0]
    for other in others:
        engine.engine.cancel(other.id)
    wait(waiting)
    return elapsed, reached


def _of(tenant: str, steps: int) -> ImageRequest:
    return request("flood", tenant=tenant, steps=steps)


def _domains(subject: Subject, *names: str) -> dict[str, dict[str, Tensor]]:
    tensors = subject.adapter(0)
    return dict.fromkeys(names, tensors)
