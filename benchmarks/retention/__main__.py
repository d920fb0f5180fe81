"""`python -m benchmarks.retention`: measures API latencies while retention deletes a million old generations, in turns
with no retention."""

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.load import generator, servers
from benchmarks.load.generator import Load
from benchmarks.processes import Server, post
from benchmarks.report import Part, Table, facts, show, write_json, write_markdown
from benchmarks.retention import rows
from benchmarks.retention.queries import measure
from core.service.db.session import Database
from core.service.tenancy import SYSTEM

TURN_SECONDS, CLIENTS, PAUSE = 10.0, 4, 0.05
LONGEST, WORST_RATIO = 0.1, 1.3
NOT_MEASURED = (
    "deleting objects from S3, since the rows' objects are not there and the store's own time is left out; SQLite, "
    "where a step holds the only write lock for as long as it lasts; more than one worker."
)
HEAD = ("measure", "found", "limit")


@dataclass
class Arm:
    """Latencies in seconds, and the number of failed requests, over all turns with retention or over all turns
    without."""

    reads: list[float] = field(default_factory=list)
    writes: list[float] = field(default_factory=list)
    failed: int = 0

    def add(self, reads: Load, writes: Load) -> None:
        self.reads += reads.latencies
        self.writes += writes.latencies
        self.failed += sum(
            count for load in (reads, writes) for status, count in load.statuses.items() if status >= 400
        )


def main() -> None:
    options = _options()
    with ExitStack() as exits:
        folder = Path(exits.enter_context(tempfile.TemporaryDirectory()))
        url = servers.database(exits)
        server = servers.api(exits, url, folder)
        started = time.monotonic()
        rows.make(url, options.generations)
        print(f"{options.generations:,} generations made in {time.monotonic() - started:.0f} s", flush=True)
        database = Database(url, SYSTEM)
        explained = measure(database)
        database.dispose()
        result = _turns(exits, server, url, folder, options)
    result |= {
        "queries": {name: {"ms": 1000 * plan.seconds, "scans": sorted(plan.scans)} for name, plan in explained.items()}
    }
    parts = _report(result)
    show(*parts)
    if options.json:
        arguments = f"--generations {result['generations']} --seconds {result['seconds']:.0f}"
        header = facts(f"python -m benchmarks.retention {arguments}", "none")
        write_json(options.json, header | result)
        write_markdown(options.json.with_suffix(".md"), "Retention", header, parts)
    raise SystemExit(not _holds(result))


def _turns(exits: ExitStack, server: Server, url: str, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    requests = _requests(f"http://127.0.0.1:{server.port}", options.generations)
    command = [sys.executable, "-m", "benchmarks.retention.sweeper", url, str(folder / "objects")]
    sweeper = exits.enter_context(
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=Path.cwd())
    )
    exits.callback(sweeper.terminate)
    assert sweeper.stdin is not None
    assert sweeper.stdout is not None
    _beside(server, requests, 3.0)  # warm-up: fills caches and pools
    without, beside, sweeps = Arm(), Arm(), []
    turns = max(1, round(options.seconds / TURN_SECONDS / 2))
    seconds = options.seconds / turns / 2
    for turn in range(turns):
        without.add(*_beside(server, requests, seconds))
        sweeper.stdin.write(f"{seconds}\n")
        sweeper.stdin.flush()
        beside.add(*_beside(server, requests, seconds))
        sweeps.append(json.loads(sweeper.stdout.readline()))
        print(f"turn {turn + 1}: {sweeps[-1]['removed']:,} rows removed", flush=True)
    transactions = sorted(duration for sweep in sweeps for duration in sweep["transactions"])
    return {
        "generations": options.generations,
        "cores": os.cpu_count(),
        "load_average": os.getloadavg()[0],
        "seconds": options.seconds,
        "removed": sum(sweep["removed"] for sweep in sweeps),
        "left": rows.count(url),
        "transactions": len(transactions),
        "transaction_ms": {f"p{p}": 1000 * transactions[len(transactions) * p // 100] for p in (50, 99)}
        | {"longest": 1000 * transactions[-1]},
        "memory_mib": [round(sweep["memory"] / 2**20, 1) for sweep in sweeps],
        "failed": without.failed + beside.failed,
        "answers": {"reads": len(beside.reads), "writes": len(beside.writes)},
        "p99_ms": {name: [_p99(getattr(without, name)), _p99(getattr(beside, name))] for name in ("reads", "writes")},
    }


def _requests(url: str, generations: int) -> tuple[Any, Any]:
    """Returns two functions that build the next read request and the next write request, as the tenant with the old
    rows."""
    key = post(url, f"/v1/admin/tenants/{rows.TENANT}/keys", servers.ADMIN_KEY, {"name": "load"})["key"]
    ids = [post(url, "/v1/domains", key, {"name": f"load {number}"})["id"] for number in range(CLIENTS)]
    numbers, changes = itertools.count(1), itertools.count()

    def read() -> bytes:
        number = next(numbers)
        if number % 5 == 0:
            return generator.request("GET", f"/v1/domains/{rows.DOMAIN}/generations?limit=20", key)
        return generator.request("GET", f"/v1/generations/gen_{number * 7919 % generations + 1:026}", key)

    def write() -> bytes:
        number = next(changes)
        body = json.dumps({"description": f"number {number}"})
        return generator.request("PATCH", f"/v1/domains/{ids[number % CLIENTS]}", key, body)

    return read, write


def _beside(server: Server, requests: tuple[Any, Any], seconds: float) -> tuple[Load, Load]:
    """Sends reads and writes at the same time, each with half of the clients. Returns the load of the reads and the
    load of the writes."""
    loads: list[Load] = [Load(), Load()]

    def send(index: int) -> None:
        loads[index] = generator.send(server.port, seconds, CLIENTS // 2, requests[index], PAUSE)

    threads = [threading.Thread(target=send, args=(index,)) for index in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return loads[0], loads[1]


def _p99(latencies: list[float]) -> float:
    return 1000 * sorted(latencies)[len(latencies) * 99 // 100]


def _ratio(result: dict[str, Any], name: str) -> float:
    without, beside = result["p99_ms"][name]
    return float(beside / without)


def _growth(result: dict[str, Any]) -> float:
    """Returns the growth of the retention process's memory from the first turn to the last, in MiB."""
    return float(result["memory_mib"][-1] - result["memory_mib"][0])


def _holds(result: dict[str, Any]) -> bool:
    return (
        result["failed"] == 0
        and result["transaction_ms"]["longest"] < 1000 * LONGEST
        and max(_ratio(result, "reads"), _ratio(result, "writes")) <= WORST_RATIO
        and _growth(result) < 20
        and not any(plan["scans"] for plan in result["queries"].values())
    )


def _rows(result: dict[str, Any]) -> list[tuple[str, str, str]]:
    duration, memory = result["transaction_ms"], result["memory_mib"]
    return [
        ("cores; processes that want one", f"{result['cores']}; {result['load_average']:.1f}", ""),
        ("rows removed; transactions that locked some", f"{result['removed']:,}; {result['transactions']:,}", ""),
        ("old rows left", f"{sum(result['left'].values()):,}", ""),
        (
            "locks of a transaction, p50, p99, longest",
            ", ".join(f"{milliseconds:.1f} ms" for milliseconds in duration.values()),
            "100 ms",
        ),
        ("memory after the first turn, at most, at the end", f"{memory[0]}, {max(memory)}, {memory[-1]} MiB", "flat"),
        *(
            (
                f"p99 of {name} without, beside it",
                f"{result['p99_ms'][name][0]:.1f}, {result['p99_ms'][name][1]:.1f} ms: {_ratio(result, name):.2f}x",
                f"{WORST_RATIO}x",
            )
            for name in ("reads", "writes")
        ),
        ("answers of 4xx and 5xx", f"{result['failed']}", "0"),
    ]


def _query_rows(result: dict[str, Any]) -> list[tuple[str, str, str]]:
    plans = result["queries"].items()
    return [(name, f"{plan['ms']:.1f} ms", ", ".join(plan["scans"]) or "none") for name, plan in plans]


def _report(result: dict[str, Any]) -> list[Part]:
    text = (
        f"A tenant has {result['generations']:,} old generations with their images, and a tenth as many previews, "
        "deliveries and entries of the audit log. In turns of 10 seconds retention sweeps without a pause, which a "
        f"worker does for one second in six, or rests. Meanwhile {CLIENTS} clients read generations and lists of them, "
        "and change domains. All processes share the cores. Locks last from the statement that takes a transaction's "
        "first one to the end of its commit."
    )
    queries = Table(("query", "time", "tables read whole"), _query_rows(result))
    title = "The queries that meet these tables, on all of the rows:"
    return [text, Table(HEAD, _rows(result)), title, queries, f"Not measured: {NOT_MEASURED}"]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--generations", type=int, default=1_000_000, help="(1,000,000)")
    parser.add_argument("--seconds", type=float, default=400, help="of all turns (400)")
    parser.add_argument("--json", type=Path, help="write the figures here too, and as Markdown beside")
    return parser.parse_args()


if __name__ == "__main__":
    main()
