"""An upgrade of the service during a fine-tune of the last release."""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx

from core.artifact.file import decode
from tests.faults.stack import Outcome, Stack
from tests.processes import Caller, running
from tests.upgrade.release import Release, differing, release_on, unpack

SOON = {"DIFFFIT_LEASE_SECONDS": "4", "DIFFFIT_HEARTBEAT_SECONDS": "1", "DIFFFIT_REAPER_SECONDS": "1"}
CHECKPOINT_STEP = 50
"""Step of the release's last checkpoint, before its worker was killed."""


def upgrade(stack: Stack, times: int) -> Outcome:
    """Migrates the release's rows, store and checkpoint, and continues with today's service, in turns on PostgreSQL and
    SQLite.

    Held: the fine-tune continues from its checkpoint and ends like the release's uninterrupted run, within rounding.
    Lost: it did not succeed.
    """
    started, held, succeeded = time.monotonic(), 0, 0
    for number in range(times):
        server = None if number % 2 else stack.postgres
        with tempfile.TemporaryDirectory() as name, release_on(server, unpack(Path(name) / "release")) as release:
            ended, starts, differ = _finish(release, Path(name))
            succeeded += ended["status"] == "succeeded"
            held += starts == [0, CHECKPOINT_STEP] and not differ
    return Outcome(
        "the service upgraded during a fine-tune",
        "it continues from its checkpoint, and ends like an uninterrupted run, within rounding",
        times,
        held,
        times - succeeded,
        time.monotonic() - started,
        "in turns on PostgreSQL and SQLite",
    )


def _finish(release: Release, folder: Path) -> tuple[dict[str, Any], list[int], list[str]]:
    """Migrates and waits for the fine-tune's end. Returns its row, the steps that its attempts started at, and the
    tensors that differ from those of the uninterrupted run."""
    environment, facts = release.environment | SOON, release.facts
    subprocess.run([sys.executable, "-m", "migrations"], env={**os.environ, **environment}, check=True)
    with running(environment, folder) as url, httpx.Client(base_url=url, timeout=120) as http:
        caller, path = Caller(http, facts["key"]), f"/v1/finetunes/{facts['running']}"
        ended = caller.wait(path, "queued", "running")
        lines = caller.send("GET", f"{path}/events").text.splitlines()
        events = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: ")]
        starts = [event["step"] for event in events if event.keys() == {"status", "step", "steps"}]
        if ended["status"] != "succeeded":
            return ended, starts, []
        resumed, whole = (
            decode(caller.send("GET", f"/v1/adapters/{id}/download").raise_for_status().content).tensors
            for id in (ended["adapter_id"], facts["finished"]["adapter"])
        )
        return ended, starts, differing(resumed, whole)
