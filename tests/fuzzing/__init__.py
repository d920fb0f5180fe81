"""Requests that the OpenAPI document allows and forbids, sent to a running service by schemathesis."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_ROOT = Path(__file__).parents[2]
_ADMIN = "^/v1/admin/"
_CONFIG = """
hooks = "tests.fuzzing.hooks"
color = false
request-timeout = 90  # longer than the API lets a client wait
max-stream-events = 3

[generation]
database = "none"
deterministic = true
"""


@dataclass(frozen=True)
class Fuzzed:
    cases: int
    failures: int
    report: str
    """Output of schemathesis: each failure with a command that repeats it."""


def fuzz(
    url: str,
    key: str,
    folder: Path,
    examples: int,
    ids: Mapping[str, Sequence[str]],
    *,
    admin: bool = False,
    phases: str = "examples,coverage,fuzzing,stateful",
) -> Fuzzed:
    """Runs all checks on one key's routes, an administrator's or a tenant's. `ids` are existing ids by noun, such as
    `domains`. Half of the requests that need an id get one of them, so that they reach the code after the look-up."""
    config = folder / "schemathesis.toml"
    config.write_text(_CONFIG + "".join(_settings_of(noun, values) for noun, values in ids.items()))
    command = [sys.executable, "-m", "schemathesis.cli", "--config-file", str(config), "run", f"{url}/openapi.json"]
    options = ["--checks", "all", "--phases", phases, "--max-examples", str(examples)]
    options += ["--continue-on-failure", "--warnings", "off", "--header", f"Authorization: Bearer {key}"]
    options += ["--include-path-regex" if admin else "--exclude-path-regex", _ADMIN]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(_ROOT), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(
        [*command, *options], cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    summary = re.search(r"([\d,]+) generated(?:, ([\d,]+) found)?", done.stdout)
    assert summary is not None, done.stdout
    cases, failures = (int((number or "0").replace(",", "")) for number in summary.groups())
    return Fuzzed(cases, failures or int(done.returncode != 0), done.stdout)


def _settings_of(noun: str, ids: Sequence[str]) -> str:
    """Returns the settings that insert existing ids, except for DELETE, because later requests still need them."""
    return f"""
[dictionaries.{noun}]
values = {json.dumps(list(ids))}

[[operations]]
include-path-regex = "/{noun}/\\\\{{id\\\\}}"
exclude-method = "DELETE"
parameters = {{ "path.id" = {{ dictionary = "{noun}", probability = 0.5 }} }}
"""
