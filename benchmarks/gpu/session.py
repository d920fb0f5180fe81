"""Runs phases one after another, each within a time limit, and writes the JSON after each."""

import gc
import json
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from benchmarks.gpu.lab import Lab
from core.ml.model.device import check_device, is_lost, release_memory

LEAST_SECONDS = 2.0
"""Minimum seconds for a phase; with less time left, the phase is not begun."""
REPEAT_SECONDS = 5.0
"""Interval in seconds at which Overrun is raised again, in case the phase's code swallowed it."""


class Overrun(Exception):
    """Raised when a phase takes longer than its time limit."""


@dataclass(frozen=True)
class Phase:
    """Phase of the benchmark. `measure` fills the given dictionary as it goes, so that a phase that overruns keeps the
    figures so far."""

    measure: Callable[[Lab, dict[str, Any]], None]
    seconds: float
    """Time limit at full size."""


def run(phases: Mapping[str, Phase], lab: Lab, path: Path, header: Mapping[str, Any], seconds: float) -> None:
    """Runs all phases within `seconds` in total, except phases that `lab.results` contains already. A phase that raises
    or overruns stores its error in its result, and the next phase runs. Raises DeviceLost when the device computes no
    more."""
    ends = time.monotonic() + seconds
    results = lab.results
    for name, phase in phases.items():
        if name in results:
            continue
        left = min(phase.seconds, ends - time.monotonic())
        results[name] = result = {}
        if left < LEAST_SECONDS:
            result["error"] = "No time was left."
        else:
            _run_phase(phase, lab, result, left)
        print(f"{name}: {result.get('seconds', 0):.1f} s {result.get('error', '')}", flush=True)
        write(path, {**header, "phases": results})
        if "error" in result:
            check_device(lab.device)
            release_memory()


@contextmanager
def recorded(part: dict[str, Any]) -> Iterator[None]:
    """Stores an error of the block in `part`, so that the phase continues with its next part. Overrun and the errors of
    a lost device are raised again."""
    try:
        yield
    except Exception as error:
        if isinstance(error, Overrun) or is_lost(error):
            raise
        part["error"] = described(error)
        traceback.print_exc()
    if "error" in part:
        release_memory()


def described(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:2000]


def read(path: Path) -> dict[str, dict[str, Any]]:
    """Returns the results of an earlier run by phase, each with its date, without phases that had no time left."""
    stored: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {"phases": {}}
    measured = {name: result for name, result in stored["phases"].items() if "seconds" in result}
    return {name: {"date": stored["date"], **result} for name, result in measured.items()}


def write(path: Path, values: Mapping[str, Any]) -> None:
    """Writes the values as JSON, and replaces the file atomically, so that it is complete at any time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(values, indent=1, ensure_ascii=False) + "\n")
    partial.replace(path)


def _run_phase(phase: Phase, lab: Lab, result: dict[str, Any], limit: float) -> None:
    started = time.monotonic()
    try:
        with time_limit(limit):
            phase.measure(lab, result)
    except Exception as error:
        result["error"] = described(error)
        traceback.print_exc()
    result["seconds"] = time.monotonic() - started
    if "torch._dynamo" in sys.modules:
        torch.compiler.reset()  # compiled functions keep the tensors of their phase alive
    gc.collect()


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raises Overrun in the main thread after `seconds`, and again every `REPEAT_SECONDS` until the block is left."""

    def overrun(_signal: int, _frame: FrameType | None) -> None:
        raise Overrun(f"longer than {seconds:.0f} s")

    before = signal.signal(signal.SIGALRM, overrun)
    signal.setitimer(signal.ITIMER_REAL, seconds, REPEAT_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
