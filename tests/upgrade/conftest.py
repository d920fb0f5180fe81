"""Fixtures with the last release's files, on each database."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.upgrade.release import Release, read_facts, release_on, unpack


@pytest.fixture
def release_files(tmp_path: Path) -> Path:
    return unpack(tmp_path / "release")


@pytest.fixture(scope="session")
def facts() -> dict[str, Any]:
    return read_facts()


@pytest.fixture(params=["sqlite", "postgresql"])
def release(request: pytest.FixtureRequest, release_files: Path) -> Iterator[Release]:
    server = request.getfixturevalue("postgres_server") if request.param == "postgresql" else None
    with release_on(server, release_files) as rows:
        yield rows
