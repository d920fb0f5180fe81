"""`python -m tests.faults` causes failures, and prints which guarantees held and what was lost or late."""

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
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell starts background jobs with SIGINT ignored
    print(f"seed {options.seed}", flush=True)
    outcomes = []
    with services.postgres() as postgres:
        for name, outcome in run(options.only or SCENARIOS, postgres, quick=options.quick, seed=options.seed):
            print(f"{name}: {outcome}", flush=True)
            outcomes.append(outcome)
            if options.json:
                results.keep(options.json, name, results.entry(outcome, options.seed), list(SCENARIOS))
    Console(width=180).print(results.table(outcomes))
    raise SystemExit(not all(outcome.whole and not outcome.late for outcome in outcomes))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", choices=SCENARIOS, help="run only these")
    parser.add_argument("--quick", action="store_true", help="run the short forms")
    parser.add_argument("--seed", type=int, default=random.randrange(2**31), help="seed of the random moments")
    parser.add_argument("--json", type=Path, help="add the rows to this table, and write its Markdown next to it")
    return parser.parse_args()


if __name__ == "__main__":
    main()
