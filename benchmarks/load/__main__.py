"""`python -m benchmarks.load`: measures requests per second of the API (reads of a generation's state and small
writes), in turns with a bare FastAPI route of one query."""

import argparse
import itertools
import json
import os
import statistics
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks.load import generator
from benchmarks.load.generator import Load
from benchmarks.load.servers import prepared
from benchmarks.report import Part, Table, facts, show, write_json, write_markdown

TURN_SECONDS = 15.0
CLIENTS = 8
WRITES = 10
"""One in this many requests is a write."""
LIMIT = 0.5
HEAD = ("measure", "found", "limit")


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
                domain = domains[number // WRITES % len(domains)]  # so that no two writes wait for one row's lock
                return generator.request("PATCH", f"/v1/domains/{domain}", key, body)
            return generator.request("GET", f"/v1/generations/{generation}", key)

        plain = generator.request("GET", "/items/1")
        for server, requests in ((service, mixed), (yardstick, lambda: plain)):  # warm-up: fills caches and pools
            generator.send(server.port, min(5.0, seconds), CLIENTS, requests)
        memory = [service.memory]
        for turn in range(turns):
            bare.append(generator.send(yardstick.port, seconds, CLIENTS, lambda: plain))
            ours.append(generator.send(service.port, seconds, CLIENTS, mixed))
            memory.append(service.memory)
            print(f"{turn + 1} of {turns}: {ours[-1].rate:.0f}/s, bare {bare[-1].rate:.0f}/s", flush=True)
    result = _facts(ours, bare, memory, options.seconds)
    parts = _report(result)
    show(*parts)
    if options.json:
        header = facts(f"python -m benchmarks.load --seconds {result['seconds']:.0f}", "none")
        write_json(options.json, header | result)
        write_markdown(options.json.with_suffix(".md"), "Load", header, parts)
    raise SystemExit(bool(result["answers_5xx"]) or result["ratio"] < LIMIT)


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
        "ratios": [run.rate / other.rate for run, other in zip(ours, bare, strict=True)],
        "answers": statuses.total(),
        "answers_5xx": sum(count for status, count in statuses.items() if status >= 500),
        "answers_not_200": statuses.total() - statuses[200],
        "milliseconds": {f"p{p}": 1000 * latencies[len(latencies) * p // 100] for p in (50, 95, 99)},
        "memory_mib": [round(run / 2**20, 1) for run in memory],
    }


def _rows(result: dict[str, Any]) -> list[tuple[str, str, str]]:
    memory = result["memory_mib"]
    return [
        ("requests a second", f"{result['rate']:.0f}", ""),
        ("of a bare route", f"{result['bare_rate']:.0f}", ""),
        ("ratio of the medians", f"{result['ratio']:.2f}", f"at least {LIMIT}"),
        ("answers of 5xx", f"{result['answers_5xx']} of {result['answers']:,}", "0"),
        (
            "p50, p95, p99 in ms",
            ", ".join(f"{milliseconds:.1f}" for milliseconds in result["milliseconds"].values()),
            "",
        ),
        ("memory at the start, at the end", f"{memory[0]} MiB, {memory[-1]} MiB", "flat"),
    ]


def _report(result: dict[str, Any]) -> list[Part]:
    turn = result["seconds"] / result["turns"]
    text = (
        f"{result['clients']} clients ask one API process for a generation's state, nine times in ten, or change a "
        f"domain of their own; in turns of {turn:.0f} seconds they ask a bare FastAPI route of one query on the same "
        f"PostgreSQL. Each got {result['seconds']:.0f} seconds. Clients, servers and PostgreSQL share all cores."
    )
    return [text, Table(HEAD, _rows(result))]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=300, help="of load on each of the two (300)")
    parser.add_argument("--json", type=Path, help="write the figures here too, and as Markdown beside")
    return parser.parse_args()


if __name__ == "__main__":
    main()
