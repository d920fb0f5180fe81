"""`python -m benchmarks.gpu`: measures the service on one GPU, prints tables, and writes JSON. With --page it measures
nothing, and writes docs/results/gpu.md from the JSON."""

import argparse
import faulthandler
import math
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.gpu import page, session
from benchmarks.gpu.lab import FULL, MINI, Lab
from benchmarks.gpu.phases import PHASES
from benchmarks.report import facts
from core.artifact.errors import DeviceLost

SECONDS = 230.0
BASIS = "ceilings"
"""Name of the phase that measures the device's maximum rates. It always runs, since other phases express their rates as
fractions of them."""
GRACE_SECONDS = 20.0
"""Seconds after the time limit at which the process is ended, in case it hangs in a call that no signal interrupts."""


def main(arguments: Sequence[str] | None = None) -> None:
    options = _options(arguments)
    if options.page:
        page.write(options.json)
        return
    started = time.monotonic()
    faulthandler.dump_traceback_later(options.seconds + GRACE_SECONDS, exit=True)
    device = torch.device("cpu" if options.mini or not torch.cuda.is_available() else "cuda")
    if device.type == "cpu" and not options.mini:
        raise SystemExit("There is no GPU. --mini checks that the phases run; its figures mean nothing.")
    header = facts("python -m benchmarks.gpu", "0, weights and data are random", mini=options.mini)
    lab = Lab(device, MINI if options.mini else FULL, session.read(options.json) if options.resume else {})
    phases = {name: PHASES[name] for name in PHASES if name in {BASIS, *options.phases}}
    if options.mini:  # no time limits, so that a busy CPU fails no phase
        phases = {name: replace(phase, seconds=math.inf) for name, phase in phases.items()}
        torch.set_num_threads(1)
    try:
        session.run(phases, lab, options.json, header, options.seconds)
    except DeviceLost:
        left = options.seconds - (time.monotonic() - started)
        sys.stdout.flush()
        if left > 0:  # a new process can use the device again; it skips the phase that lost it
            again = [*(arguments or sys.argv[1:]), "--resume", "--seconds", str(left)]
            os.execv(sys.executable, [sys.executable, "-m", "benchmarks.gpu", *again])
    print("\n\n".join(page.parts({**header, "phases": lab.results})))
    faulthandler.cancel_dump_traceback_later()


def _phases(text: str) -> list[str]:
    names = text.split(",")
    if unknown := [name for name in names if name not in PHASES]:
        raise argparse.ArgumentTypeError(f"unknown phases: {', '.join(unknown)}; choose from {', '.join(PHASES)}")
    return names


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--json", type=Path, default=page.JSON, help="write the figures here, again after each phase")
    parser.add_argument(
        "--phases", type=_phases, default=list(PHASES), help=f"of {','.join(PHASES)}; {BASIS} always runs"
    )
    parser.add_argument("--seconds", type=float, default=SECONDS, help="for everything")
    parser.add_argument("--mini", action="store_true", help="a model of no size on the CPU, to see that it works")
    parser.add_argument("--resume", action="store_true", help="keep the phases that the JSON has")
    parser.add_argument("--page", action="store_true", help="measure nothing; write the page beside the JSON from it")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
