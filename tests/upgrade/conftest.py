"""The last release's database, store and files, as it left them."""

import datetime
import json
import os
import subprocess
import tarfile
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
from sqlalchemy import DateTime, MetaData

from tests import services

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Release:
    facts: dict[str, Any]
    folder: Path
    environment: dict[str, str]
    """Points a service of today at the release's database and store."""


@pytest.fixture
def release_files(tmp_path: Path) -> Path:
    folder = tmp_path / "release"
    with tarfile.open(HERE / "release.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    return folder


@pytest.fixture(scope="session")
def facts() -> dict[str, Any]:
    """Ids, keys and digests that the release's service gave out."""
    found: dict[str, Any] = json.loads((HERE / "release.json").read_text())
    return found


@pytest.fixture(params=["sqlite", "postgresql"])
def release(request: pytest.FixtureRequest, release_files: Path, facts: dict[str, Any]) -> Iterator[Release]:
    """Tables are still the release's; their times are shifted, so that it was stopped an hour ago."""
    environment = {"DIFFFIT_DATA_DIR": str(release_files / "data"), "DIFFFIT_TORCH_THREADS": "1"}
    passed = datetime.timedelta(seconds=time.time() - facts["made_at"] - 3600)
    if request.param == "sqlite":
        _shift_times(f"sqlite:///{release_files / 'data' / 'difffit.db'}", passed)
        yield Release(facts, release_files, environment)
        return
    server: services.Postgres = request.getfixturevalue("postgres_server")
    (release_files / "data" / "difffit.db").unlink()
    name = f"upgrade_{uuid.uuid4().hex}"
    url = server.create(name)
    options = ["-X", "-q", "-v", "ON_ERROR_STOP=1", "-f", str(release_files / "postgresql.sql"), url]
    every_tenant = os.environ | {"PGOPTIONS": "-c difffit.tenant=*"}
    subprocess.run([server.psql, *options], check=True, env=every_tenant, stdout=subprocess.DEVNULL)
    _shift_times(url.replace("postgresql://", "postgresql+psycopg://"), passed)
    yield Release(facts, release_files, environment | services.roles_of(url))
    server.drop(name)


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
            if not times or table.name == "audit_log":  # nobody may change that one
                continue
            for row in connection.execute(table.select()).mappings().all():
                moved = {column.name: row[column.name] + by for column in times if row[column.name] is not None}
                where = [key == row[key.name] for key in keys]
                connection.execute(table.update().where(*where).values(moved))
    engine.dispose()
