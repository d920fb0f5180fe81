"""`python -m tests.faults`: causes failures, and prints which guarantees held, and what was lost or late."""

import argparse
import random
import signal
from pathlib import Path

from rich.console import Console

from tests import services
from tests.faults import results
from tests.faults.scenarios import SCENARIOS, run


def main() -> None:
    options = _options()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in a shell's background starts deaf to it
    print(f"seed {options.seed}", flush=True)
    outcomes = []
    with services.postgres() as postgres:
        for name, outcome in run(options.only or SCENARIOS, postgres, quick=options.quick, seed=options.seed):
            print(f"{name}: {outcome}", flush=True)
            outcomes.append(outcome)
            if options.json:
                results.keep(options.json, name, results.entry(outcome, options.seed), list(SCENARIOS))
    Console(width=180).print(results.table(outcomes))
    raise SystemExit(not all(one.whole and not one.late for one in outcomes))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", choices=SCENARIOS, help="these alone")
    parser.add_argument("--quick", action="store_true", help="a few of each")
    parser.add_argument("--seed", type=int, default=random.randrange(2**31), help="of the moments drawn at random")
    parser.add_argument("--json", type=Path, help="put the rows into this table, and its Markdown beside it")
    return parser.parse_args()


if __name__ == "__main__":
    main()
