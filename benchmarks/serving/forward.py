"""Measures the cost of adapters in one forward, and of the table that holds them."""

import statistics
from collections.abc import Callable

import torch

from benchmarks.report import Measure
from benchmarks.serving.measure import Repetitions, in_turns, median_ratio
from benchmarks.serving.popularity import Zipf
from benchmarks.serving.subjects import CLASSES, Kind, Subject, repeated_dit
from core.artifact.base import BaseConfig
from core.ml.model.bank import AdapterBank, FoldedAdapter
from core.ml.model.folding import VectorLayout, folded_forward

ROWS = 32
MIXED_LIMITS: dict[Kind, float] = {"mini": 0.92, "wide": 0.96, "full": 0.97}
RESIDENT = {1_000: 0.95, 10_000: 0.90}
FEW = 10


def mixed_adapters(subject: Subject, repetitions: Repetitions) -> list[Measure]:
    """Measures a forward of 32 batch rows with 32 adapters, whose vectors are gathered from the bank's table, next to a
    forward of the same rows through the base alone."""
    dit, bank = subject.dit, AdapterBank(subject.dit, ROWS)
    adapters = [bank.fold(str(index), subject.adapter(index)) for index in range(ROWS)]
    slots = torch.tensor(bank.activate(adapters), device=subject.device)
    x, t, y = subject.batch(ROWS)
    classes = torch.stack([bank.classes(adapter, int(id))[0] for adapter, id in zip(adapters, y, strict=True)])
    plain = subject.compiled(lambda: dit(x, t, y))
    mixed = subject.compiled(lambda: folded_forward(dit, x, t, classes, bank.table[slots]))
    samples = in_turns(
        {"no adapter": lambda: subject.seconds(plain), "32 adapters": lambda: subject.seconds(mixed)},
        repetitions.forward,
    )
    return [
        Measure(
            name="throughput of 32 rows with 32 adapters / with none",
            subject=subject.name,
            value=median_ratio(samples, "no adapter", "32 adapters"),
            limit=MIXED_LIMITS[subject.kind],
            samples=samples,
        )
    ]


def residency(subject: Subject, repetitions: Repetitions) -> list[Measure]:
    """Measures forwards of 32 batch rows with 10, 1,000 and 10,000 adapters in the table, from which each row takes one
    by a Zipf distribution.

    The time of a forward includes activating its adapters and gathering their vectors. All adapters have equal values
    but separate slots, since times do not depend on the values. The largest table takes 1.5 GB with the mini base.
    """
    name = "{:,} resident".format
    sides = {name(count): _forwards(subject, count) for count in (FEW, *RESIDENT)}
    samples = in_turns(sides, repetitions.forward)
    return [
        Measure(
            name=f"throughput with {count:,} adapters resident / with {FEW}, Zipf",
            subject=subject.name,
            value=median_ratio(samples, name(FEW), name(count)),
            limit=limit,
            samples={side: samples[side] for side in (name(FEW), name(count))},
        )
        for count, limit in RESIDENT.items()
    ]


def _forwards(subject: Subject, count: int) -> Callable[[], float]:
    bank, popularity = AdapterBank(subject.dit, count), Zipf(count)
    vectors = torch.randn(VectorLayout(subject.dit.config).length, generator=torch.Generator().manual_seed(0)) * 0.02
    vectors, table = vectors.to(bank.table), torch.zeros(CLASSES + 1, subject.dit.config.hidden_size)
    adapters = [FoldedAdapter(str(index), vectors, table) for index in range(count)]
    for adapter in adapters:
        bank.activate([adapter])
    x, t, y = subject.batch(ROWS)
    classes = subject.dit.y_embedder.embedding_table.weight[y]
    forward = subject.compiled(lambda slots: folded_forward(subject.dit, x, t, classes, bank.table[slots]))

    def one() -> float:
        drawn = [adapters[index] for index in popularity.draw(ROWS)]
        return subject.seconds(lambda: forward(torch.tensor(bank.activate(drawn), device=subject.device)))

    return one


ACTIVATION_LIMIT = 1.0


def activation(subject: Subject, repetitions: Repetitions) -> list[Measure]:
    """Measures the time to copy an adapter of XL size from host memory to a device slot, whatever the size of the
    subject's model.

    64 adapters take turns in 8 slots, so that every activation copies, and from memory that has left the processor's
    cache since its last copy.
    """
    dit = repeated_dit(BaseConfig(), subject.device, subject.dit.positions.dtype)
    bank = AdapterBank(dit, slots=8)
    vector = bank.fold("0", {"y_embedder.embedding_table.weight": dit.y_embedder.embedding_table.weight})
    pinned = subject.device.type == "cuda"
    copies = [vector.vectors.clone().pin_memory() if pinned else vector.vectors.clone() for _ in range(64)]
    adapters = [FoldedAdapter(str(index), vectors, vector.classes) for index, vectors in enumerate(copies)]
    times = [
        subject.seconds(lambda adapter=adapter: bank.activate([adapter]))  # type: ignore[misc]
        for _ in range(max(2, repetitions.forward // 3))
        for adapter in adapters
    ]
    samples = {"milliseconds": [1000 * time for time in times[len(adapters) :]]}
    return [
        Measure(
            name=f"activating an adapter of XL size ({vector.vectors.nbytes / 1e6:.1f} MB), median",
            subject=f"{subject.device.type.upper()}, {bank.dtype}".replace("torch.", ""),
            value=statistics.median(samples["milliseconds"]),
            limit=ACTIVATION_LIMIT,
            best="lowest",
            unit="ms",
            samples=samples,
        )
    ]
