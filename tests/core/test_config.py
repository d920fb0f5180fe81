"""Settings that depend on each other."""

import pytest
from pydantic import ValidationError

from core.config import Settings


def settings(**values: str) -> Settings:
    return Settings(_env_file=None, **values)  # type: ignore[arg-type,call-arg]


def test_one_database_url_serves_all() -> None:
    for url in ("", "postgresql://difffit@host/difffit"):
        found = settings(database_url=url)
        assert found.worker_database_url == found.owner_database_url == found.database_url
        assert found.embedded == (not url)


def test_each_part_may_have_its_own_role() -> None:
    found = settings(database_url="postgresql://a@h/d", owner_database_url="postgresql://o@h/d")
    assert (found.owner_database_url, found.worker_database_url) == ("postgresql://o@h/d", "postgresql://a@h/d")


def test_a_worker_on_another_database_than_the_api_is_refused() -> None:
    with pytest.raises(ValidationError, match="one database"):
        settings(worker_database_url="postgresql://w@h/d")
