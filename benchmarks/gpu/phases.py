"""All phases of the GPU benchmark, with time limits in seconds that suit an H100. The most important come first, so
that an interrupted run has measured them."""

from benchmarks.gpu import (
    ceilings,
    decoding,
    forwards,
    fp8,
    fused,
    independence,
    kinds,
    profiling,
    serving,
    together,
    training,
)
from benchmarks.gpu.session import Phase

PHASES = {
    "ceilings": Phase(ceilings.measure, 30),
    "forwards": Phase(forwards.measure, 50),
    "training": Phase(training.measure, 50),
    "full": Phase(training.measure_full, 30),
    "engine": Phase(serving.measure, 60),
    "decoder": Phase(decoding.measure, 20),
    "kinds": Phase(kinds.measure, 40),
    "together": Phase(together.measure, 30),
    "start": Phase(serving.measure_start, 20),
    "fused": Phase(fused.measure, 30),
    "equality": Phase(forwards.measure_equality, 20),
    "independence": Phase(independence.measure, 40),
    "fp8": Phase(fp8.measure, 15),
    "idle": Phase(serving.measure_idle, 20),
    "profile": Phase(profiling.measure, 20),
    "compiled": Phase(forwards.measure_compiled, 90),
}
