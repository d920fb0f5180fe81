"""`python -m benchmarks.load`: status reads and small writes to the API, in turns with a bare route of one query."""

import argparse
import itertools
import json
import os
import statistics
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.load import generator
from benchmarks.load.generator import Load
from benchmarks.load.servers import prepared

TURN_SECONDS = 15.0
CLIENTS = 8
WRITES = 10
"""One request in so many is a write."""
LIMIT = 0.5


def main() -> None:
    options = _options()
    turns = max(1, round(options.seconds / TURN_SECONDS))
    seconds = options.seconds / turns
    ours: list[Load] = []
    bare: list[Load] = []
    with ExitStack() as exits:
        service, yardstick, key, domains, generation = prepared(exits, CLIENTS)
        numbers = itertools.count()

        def mixed() -> bytes:
            number = next(numbers)
            if number % WRITES == 0:
                body = json.dumps({"description": f"number {number}"})
                domain = domains[number // WRITES % len(domains)]  # no two clients wait for one row
                return generator.request("PATCH", f"/v1/domains/{domain}", key, body)
            return generator.request("GET", f"/v1/generations/{generation}", key)

        plain = generator.request("GET", "/items/1")
        for server, one in ((service, mixed), (yardstick, lambda: plain)):  # caches, pools and memory fill up
            generator.send(server.port, min(5.0, seconds), CLIENTS, one)
        memory = [service.memory]
        for turn in range(turns):
            bare.append(generator.send(yardstick.port, seconds, CLIENTS, lambda: plain))
            ours.append(generator.send(service.port, seconds, CLIENTS, mixed))
            memory.append(service.memory)
            print(f"{turn + 1} of {turns}: {ours[-1].rate:.0f}/s, bare {bare[-1].rate:.0f}/s", flush=True)
    facts = _facts(ours, bare, memory, options.seconds)
    _show(facts)
    if options.json:
        options.json.write_text(json.dumps(facts, indent=2) + "\n")
    raise SystemExit(bool(facts["answers_5xx"]) or facts["ratio"] < LIMIT)


def _facts(ours: list[Load], bare: list[Load], memory: list[int], seconds: float) -> dict[str, Any]:
    rate, yardstick = (statistics.median(load.rate for load in loads) for loads in (ours, bare))
    statuses = sum((load.statuses for load in ours), Counter[int]())
    latencies = sorted(latency for load in ours for latency in load.latencies)
    return {
        "cores": os.cpu_count(),
        "load_average": os.getloadavg()[0],
        "clients": CLIENTS,
        "seconds": seconds,
        "turns": len(ours),
        "rate": rate,
        "bare_rate": yardstick,
        "ratio": rate / yardstick,
        "ratios": [one.rate / other.rate for one, other in zip(ours, bare, strict=True)],
        "answers": statuses.total(),
        "answers_5xx": sum(count for status, count in statuses.items() if status >= 500),
        "answers_not_200": statuses.total() - statuses[200],
        "milliseconds": {f"p{p}": 1000 * latencies[len(latencies) * p // 100] for p in (50, 95, 99)},
        "memory_mib": [round(one / 2**20, 1) for one in memory],
    }


def _show(facts: dict[str, Any]) -> None:
    table = Table("measure", "found", "limit", title=f"{facts['clients']} clients, {facts['cores']} cores for all")
    table.add_row("requests a second", f"{facts['rate']:.0f}", "")
    table.add_row("of a bare route", f"{facts['bare_rate']:.0f}", "")
    table.add_row("ratio of the medians", f"{facts['ratio']:.2f}", f"at least {LIMIT}")
    table.add_row("answers of 5xx", f"{facts['answers_5xx']} of {facts['answers']:,}", "0")
    table.add_row("p50, p95, p99 in ms", ", ".join(f"{one:.1f}" for one in facts["milliseconds"].values()), "")
    memory = facts["memory_mib"]
    table.add_row("memory at the start, at the end", f"{memory[0]} MiB, {memory[-1]} MiB", "flat")
    Console().print(table)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=300, help="of load on each of the two (300)")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    return parser.parse_args()


if __name__ == "__main__":
    main()
