"""Times and memory of a GPU, with a stand-in for CUDA."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache
from types import SimpleNamespace

import pytest
import torch

from benchmarks.gpu import device
from benchmarks.gpu.device import PeakMemory, graphed, milliseconds


class StandInForCuda:
    """Stand-in for `torch.cuda`: each launch takes a millisecond, and every event is recorded."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.clock = 0.0
        self.events: list[str] = []
        self.streams: list[object] = []
        """Stream of each capture."""
        patch.setattr(device, "_side_stream", cache(device._side_stream.__wrapped__))
        for name, value in {
            "Event": lambda enable_timing: StandInEvent(self, enable_timing),
            "Stream": lambda _: SimpleNamespace(wait_stream=lambda _: None),
            "current_stream": lambda _: SimpleNamespace(wait_stream=lambda _: None),
            "stream": lambda _: nullcontext(),
            "CUDAGraph": lambda: SimpleNamespace(replay=lambda: self.events.append("replay")),
            "graph": self.graph,
            "synchronize": lambda _: None,
            "reset_peak_memory_stats": lambda _: self.events.append("reset"),
            "max_memory_allocated": lambda _: 300,
            "memory_allocated": lambda _: 200,
        }.items():
            patch.setattr(torch.cuda, name, value)

    @contextmanager
    def graph(self, _: object, stream: object) -> Iterator[None]:
        self.streams.append(stream)
        self.events.append("begin")
        yield
        self.events.append("end")

    def launch(self) -> str:
        self.clock += 1
        self.events.append("launch")
        return "output"


@dataclass
class StandInEvent:
    device: StandInForCuda
    timing: bool
    at: float = -1

    def record(self) -> None:
        self.at = self.device.clock

    def elapsed_time(self, later: "StandInEvent") -> float:
        assert self.timing
        return later.at - self.at


def test_graph_is_captured_after_its_kernels_have_run(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = StandInForCuda(monkeypatch)
    replay = graphed(cuda.launch, torch.device("cuda"))
    assert cuda.events == ["launch", "launch", "begin", "launch", "end"]
    assert replay() == "output"
    assert cuda.events[5:] == ["replay"]
    graphed(cuda.launch, torch.device("cuda"))
    assert cuda.streams[0] is cuda.streams[1], "every stream takes memory"


def test_milliseconds_are_those_of_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = StandInForCuda(monkeypatch)
    assert milliseconds(cuda.launch, torch.device("cuda"), 0.0) == 1


def test_peak_memory_is_reset_when_measuring_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = StandInForCuda(monkeypatch)
    memory = PeakMemory(torch.device("cuda"))
    assert (cuda.events, memory.peak, memory.now) == (["reset"], 300, 200)
