"""Settings that depend on each other."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from core.service.config import QUEUES, Settings, get_settings
from core.service.jobs import KINDS


def settings(**values: str) -> Settings:
    return Settings(_env_file=None, **values)  # type: ignore[arg-type,call-arg]


def test_single_database_url_is_used_by_all_parts() -> None:
    for url in ("", "postgresql://difffit@host/difffit"):
        configured = settings(database_url=url)
        assert configured.worker_database_url == configured.owner_database_url == configured.database_url
        assert configured.embedded == (not url)


def test_each_part_may_use_its_own_role() -> None:
    urls = settings(database_url="postgresql://a@h/d", owner_database_url="postgresql://o@h/d")
    assert (urls.owner_database_url, urls.worker_database_url) == ("postgresql://o@h/d", "postgresql://a@h/d")


def test_worker_on_another_database_than_the_api_is_rejected() -> None:
    with pytest.raises(ValidationError, match="one database"):
        settings(worker_database_url="postgresql://w@h/d")


@pytest.mark.parametrize("name", ["admin_key", "url_secret"])
def test_weak_secret_is_rejected_and_not_shown(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(f"DIFFFIT_{name.upper()}", "hunter2")
    get_settings.cache_clear()
    with pytest.raises(ValueError, match=f"^DIFFFIT_{name.upper()}: must have at least 32 characters") as refused:
        get_settings()
    assert "hunter2" not in str(refused.value)
    monkeypatch.setenv(f"DIFFFIT_{name.upper()}", "0123456789abcdef" * 2)
    assert getattr(get_settings(), name).get_secret_value() == "0123456789abcdef" * 2
    get_settings.cache_clear()


def test_empty_variable_counts_as_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ADMIN_KEY", "URL_SECRET", "PUBLIC_URL", "MAX_UPLOAD_BYTES"):
        monkeypatch.setenv(f"DIFFFIT_{name}", "")
    configured = settings()
    assert (configured.admin_key, configured.url_secret, configured.public_url) == (None, None, None)
    assert configured.max_upload_bytes == settings(max_upload_bytes="536870912").max_upload_bytes


def test_origins_of_pages_are_named_as_browsers_send_them() -> None:
    assert settings(cors_origins=" https://App.example.com , http://[::1]:3000").cors_origins == (
        "https://app.example.com,http://[::1]:3000"
    )
    for wrong in ("app.example.com", "https://app.example.com/", "https://a@b.example", "ftp://a.example", "https://"):
        with pytest.raises(ValidationError, match="origins without a path"):
            settings(cors_origins=f"https://good.example,{wrong}")


def test_unknown_queue_is_rejected() -> None:
    assert set(QUEUES) == {kind.queue for kind in KINDS.values()}
    assert settings(worker_queues=" generate , datasets").worker_queues == "generate,datasets"
    for wrong in ("generation", "generate,", "generate;finetune"):
        with pytest.raises(ValidationError, match="must be queues of datasets, finetune, generate, separated by"):
            settings(worker_queues=wrong)


def test_unknown_variables_are_reported(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_text("DIFFFIT_HAPPINESS=1\nPOSTGRES_PASSWORD=secret\nDIFFFIT_PORT=8001\n")
    monkeypatch.setenv("DIFFFIT_WORKER_QUEUE", "generate")
    monkeypatch.setenv("DIFFFIT_API_KEY", "the-command-reads-this")
    get_settings.cache_clear()
    assert get_settings().port == 8001
    get_settings.cache_clear()
    assert caplog.messages == [
        "DIFFFIT_HAPPINESS is not a setting and has no effect.",
        "DIFFFIT_WORKER_QUEUE is not a setting and has no effect. Did you mean DIFFFIT_WORKER_QUEUES?",
    ]


def test_url_of_an_unknown_kind_is_rejected() -> None:
    with pytest.raises(ValidationError, match="must start with file:// or s3://"):
        settings(storage_url="ftp://there")
    for name in ("database_url", "worker_database_url", "owner_database_url"):
        with pytest.raises(ValidationError, match="must start with sqlite:// or postgresql://"):
            settings(**{name: "mysql://there"})


def test_removed_setting_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    settings()
    assert not caplog.records
    assert settings(compile="true").compile is None
    (record,) = caplog.records
    assert "DIFFFIT_COMPILE has no effect" in record.message


def test_empty_secret_cannot_sign() -> None:
    for name in ("admin_key", "url_secret"):
        with pytest.raises(ValidationError, match="at least 32 characters"):
            settings(**{name: ""})
        with pytest.raises(ValidationError) as refused:
            settings(**{name: "hunter2"})
        assert "hunter2" not in str(refused.value)


def test_trusted_proxies_are_networks() -> None:
    assert settings(trusted_proxies="10.1.2.3/8, ::1 ,192.0.2.1,").trusted_proxies == "10.0.0.0/8,::1/128,192.0.2.1/32"
    for odd in ("*", "proxy.internal", "10.0.0.0/33"):
        with pytest.raises(ValidationError, match="trusted_proxies"):
            settings(trusted_proxies=odd)


def test_spool_limit_must_fit_two_uploads() -> None:
    with pytest.raises(ValidationError, match="at least twice max_upload_bytes"):
        settings(max_upload_bytes="1000000000", max_spooled_bytes="2000000000")
