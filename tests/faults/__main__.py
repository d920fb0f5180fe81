"""`python -m tests.faults`: breaks what can break and prints what was tried, what held, what was lost or late."""

import argparse
import json
import os
import platform
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests import services
from tests.faults.scenarios import SCENARIOS, run


def main() -> None:
    options = _options()
    os.environ |= {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}
    outcomes = []
    with services.postgres() as postgres:
        for name, outcome in run(options.only or SCENARIOS, postgres, quick=options.quick):
            print(f"{name}: {outcome}", flush=True)
            outcomes.append(outcome)
    table = Table("fault", "must hold", "tried", "held", "lost", "late", "seconds", "", title="Faults")
    for one in outcomes:
        counts = (str(one.tried), str(one.held), str(one.lost), str(one.late), f"{one.seconds:.0f}")
        table.add_row(one.fault, one.must_hold, *counts, one.note)
    Console(width=180).print(table)
    if options.json:
        about = {"machine": platform.processor() or platform.machine(), "cores": os.cpu_count()}
        options.json.write_text(json.dumps({**about, "outcomes": [asdict(one) for one in outcomes]}, indent=2) + "\n")
    raise SystemExit(not all(one.whole and not one.late for one in outcomes))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", choices=SCENARIOS, help="these alone")
    parser.add_argument("--quick", action="store_true", help="a few of each")
    parser.add_argument("--json", type=Path, help="write the table here too")
    return parser.parse_args()


if __name__ == "__main__":
    main()
