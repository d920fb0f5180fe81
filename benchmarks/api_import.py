"""Measures the cost of importing the API, which every start pays: `python -m benchmarks.api_import`.

Fresh processes import `api.app`, in turn with processes that import only fastapi, sqlalchemy and boto3. Each reports
elapsed time, processor time and peak resident memory. The limit is on the ratio of processor times, since they vary
less on a busy machine. `make check-api-image` runs this benchmark in an environment with the API's dependencies only. A
first run, which does not count, compiles all modules, as the container images do.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from statistics import median
from typing import NamedTuple

LIBRARIES = ("fastapi", "sqlalchemy", "boto3")
API = ("api.app",)
MAX_RATIO = 1.5
MAX_MEBIBYTES = 150.0


class Cost(NamedTuple):
    passed: float
    """Elapsed seconds. `processor` is processor time in seconds."""
    processor: float
    mebibytes: float
    """Peak resident memory in MiB."""


_PROGRAM = """
import importlib, json, sys, time
start, started = time.perf_counter(), time.process_time()
for name in sys.argv[1:]:
    importlib.import_module(name)
passed, processor = time.perf_counter() - start, time.process_time() - started
import resource
print(json.dumps([passed, processor, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024]))
"""


def main(arguments: Sequence[str] | None = None) -> None:
    options = _options(arguments)
    measured = measure(options.python, options.runs)
    for names, cost in measured.items():
        print(
            f"{', '.join(names):28} {cost.passed:6.3f} s  {cost.processor:6.3f} s processor  {cost.mebibytes:6.1f} MiB"
        )
    ratio = measured[API].processor / measured[LIBRARIES].processor
    print(f"ratio: {ratio:.2f} (at most {MAX_RATIO}); memory at most {MAX_MEBIBYTES:.0f} MiB")
    if ratio > MAX_RATIO or measured[API].mebibytes > MAX_MEBIBYTES:
        sys.exit("The import costs more than its limits; see the figures above.")


def measure(python: str, runs: int) -> dict[tuple[str, ...], Cost]:
    """Returns the median cost of each set of imports over `runs` processes, after one run that does not count."""
    taken: dict[tuple[str, ...], list[Cost]] = {LIBRARIES: [], API: []}
    for _ in range(runs + 1):
        for names, samples in taken.items():
            samples.append(_run(python, names))
    return {names: Cost(*map(median, zip(*samples[1:], strict=True))) for names, samples in taken.items()}


def _run(python: str, names: tuple[str, ...]) -> Cost:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    command = [python, "-c", _PROGRAM, *names]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return Cost(*json.loads(done.stdout))


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.api_import", description=__doc__)
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--python", default=sys.executable, help="of the environment to measure")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
