"""Measures serving when there are more adapters than slots on the device."""

from benchmarks.report import Measure
from benchmarks.serving.load import MAX_ROWS, Serving, request
from benchmarks.serving.measure import Repetitions, in_turns, median_ratio, quantile
from benchmarks.serving.popularity import Zipf
from benchmarks.serving.subjects import Subject

ADAPTERS = 4 * MAX_ROWS
REQUESTS = 3 * MAX_ROWS
THROUGHPUT_LIMIT, LATENCY_LIMIT = 0.85, 2.0


def cliff(subject: Subject, repetitions: Repetitions) -> list[Measure]:
    """Measures 128 domains, requested by a Zipf distribution, with 32 adapter slots and with 128.

    32 clients, each of which sends its next request when its previous one is done, keep 32 batch rows in flight, so
    that each sampling step may need all 32 slots. Images are not guided, so that each batch row may have a separate
    adapter.
    """
    tensors = subject.adapter(0)
    domains = {str(index): tensors for index in range(ADAPTERS)}
    with (
        Serving(subject, domains, slots=ADAPTERS) as all_resident,
        Serving(subject, domains, slots=MAX_ROWS) as quarter,
    ):
        sides = {f"{engine.runner.bank.slots} slots": _Load(subject, engine).run for engine in (all_resident, quarter)}
        times = in_turns(sides, repetitions.engine)
        copies = quarter.runner.bank.copies
    seconds = {name: [total for total, _ in figures] for name, figures in times.items()}
    p95 = {name: [quantile(latencies, 0.95) for _, latencies in figures] for name, figures in times.items()}
    everything, few = seconds
    what = f"{ADAPTERS} adapters in {MAX_ROWS} slots / in {ADAPTERS}, Zipf"
    note = f"{copies} activations for {(repetitions.engine + 1) * REQUESTS} images"
    return [
        Measure(
            name=f"throughput of {what}",
            subject=subject.name,
            value=median_ratio(seconds, everything, few),
            limit=THROUGHPUT_LIMIT,
            samples=seconds,
            note=note,
        ),
        Measure(
            name=f"95th percentile of a request's time, {what}",
            subject=subject.name,
            value=median_ratio(p95, few, everything),
            limit=LATENCY_LIMIT,
            best="lowest",
            samples=p95,
        ),
    ]


class _Load:
    """Load of random requests: the same for each side of the comparison, and different in each repetition."""

    def __init__(self, subject: Subject, engine: Serving) -> None:
        self.steps, self.engine, self.popularity = subject.steps, engine, Zipf(ADAPTERS)

    def run(self) -> tuple[float, list[float]]:
        domains = self.popularity.draw(REQUESTS)
        requests = [request(str(domain), steps=self.steps, guidance_scale=1.0) for domain in domains]
        return self.engine.closed_loop(requests, MAX_ROWS)
