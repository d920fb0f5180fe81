"""The database, store and files that the last release left, made by `make_release.py`."""

import datetime
import json
import os
import subprocess
import tarfile
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import sqlalchemy
from sqlalchemy import DateTime, MetaData

from tests import services

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Release:
    facts: dict[str, Any]
    folder: Path
    environment: dict[str, str]
    """Settings with which today's service uses the release's database and store."""


def read_facts() -> dict[str, Any]:
    """Returns the ids, keys and digests that the release's service gave out."""
    facts: dict[str, Any] = json.loads((HERE / "release.json").read_text())
    return facts


def unpack(folder: Path) -> Path:
    """Writes the release's files into a new folder, which it returns."""
    with tarfile.open(HERE / "release.tar.xz") as archive:
        archive.extraction_filter = getattr(tarfile, "data_filter", None)  # Python before 3.11.4 has no filters
        archive.extractall(folder)
    return folder


@contextmanager
def release_on(server: services.Postgres | None, files: Path) -> Iterator[Release]:
    """Yields a release's rows on PostgreSQL, or on SQLite where there is no server. Tables are still the release's;
    times are shifted as if it had been stopped an hour ago."""
    facts = read_facts()
    environment = {"DIFFFIT_DATA_DIR": str(files / "data"), "DIFFFIT_TORCH_THREADS": "1"}
    passed = datetime.timedelta(seconds=time.time() - facts["made_at"] - 3600)
    if server is None:
        _shift_times(f"sqlite:///{files / 'data' / 'difffit.db'}", passed)
        yield Release(facts, files, environment)
        return
    (files / "data" / "difffit.db").unlink()
    name = f"upgrade_{uuid.uuid4().hex}"
    url = server.create(name)
    options = ["-X", "-q", "-v", "ON_ERROR_STOP=1", "-f", str(files / "postgresql.sql"), url]
    every_tenant = os.environ | {"PGOPTIONS": "-c difffit.tenant=*"}
    subprocess.run([server.psql, *options], check=True, env=every_tenant, stdout=subprocess.DEVNULL)
    _shift_times(url.replace("postgresql://", "postgresql+psycopg://"), passed)
    yield Release(facts, files, environment | services.roles_of(url))
    server.drop(name)


def differing(actual: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]) -> list[str]:
    """Returns the names of tensors that differ by more than rounding, or that only one of the two has."""
    pairs = {
        name: (_trained(name, actual[name]), _trained(name, expected[name])) for name in actual.keys() & expected.keys()
    }
    return sorted(
        (actual.keys() ^ expected.keys())
        | {name for name, pair in pairs.items() if not np.allclose(*pair, rtol=1e-3, atol=1e-5)}
    )


def _trained(name: str, values: np.ndarray) -> np.ndarray:
    """Returns the values without the bias of an attention's keys. Softmax ignores it, so that it has no gradient; older
    releases changed it only by rounding errors."""
    if not name.endswith("attn.qkv.bias"):
        return values
    query, _, value = np.split(values, 3)
    return np.concatenate([query, value])


def _shift_times(url: str, by: datetime.timedelta) -> None:
    engine = sqlalchemy.create_engine(
        url, connect_args={} if url.startswith("sqlite") else {"options": "-c difffit.tenant=*"}
    )
    tables = MetaData()
    with engine.begin() as connection:
        tables.reflect(connection)
        for table in tables.sorted_tables:
            times = [column for column in table.columns if isinstance(column.type, DateTime)]
            keys = list(table.primary_key)
            if not times or table.name == "audit_log":  # append-only
                continue
            for row in connection.execute(table.select()).mappings().all():
                moved = {column.name: row[column.name] + by for column in times if row[column.name] is not None}
                where = [key == row[key.name] for key in keys]
                connection.execute(table.update().where(*where).values(moved))
    engine.dispose()
