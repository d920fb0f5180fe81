"""Server address and API key: from arguments, the environment, or the file that `difffit login` writes."""

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

DEFAULT_URL = "http://127.0.0.1:8000"
"""Address of `make serve`."""
DEFAULT_PROFILE = "default"


@dataclass(frozen=True)
class Settings:
    url: str
    api_key: str | None = field(repr=False)


def resolve(url: str | None = None, api_key: str | None = None, profile: str | None = None) -> Settings:
    """Returns the effective settings. A stored key is only used with the URL that it was stored with. With both URL
    and key given, neither environment nor file is read.

    Raises ValueError for an unknown profile or an unreadable file.
    """
    if url is not None and api_key is not None and profile is None:
        return Settings(url.rstrip("/"), api_key)
    wanted = profile or os.environ.get("DIFFFIT_PROFILE")
    stored = _profiles().get(wanted or DEFAULT_PROFILE)
    if stored is None and wanted:
        raise ValueError(
            f"There is no profile '{wanted}' in {config_file()}. Create it with `difffit --profile {wanted} login`."
        )
    stored = stored or {}
    named = url or (None if profile else os.environ.get("DIFFFIT_URL"))
    address = (named or stored.get("url") or DEFAULT_URL).rstrip("/")
    key = api_key or (None if profile else os.environ.get("DIFFFIT_API_KEY"))
    if key is None and stored.get("url") == address:
        key = stored.get("api_key")
    return Settings(address, key)


def config_file() -> Path:
    """Returns `DIFFFIT_CONFIG`, or the default path in the user's configuration folder."""
    if named := os.environ.get("DIFFFIT_CONFIG"):
        return Path(named)
    from platformdirs import user_config_path

    return user_config_path("difffit") / "config.json"


def save_profile(name: str, settings: Settings) -> Path:
    """Writes a profile, readable by its owner only. Returns the file's path."""
    stored: dict[str, Any] = {"url": settings.url, "api_key": settings.api_key}
    return _write({**_profiles(), name: stored})


def forget_profile(name: str) -> bool:
    """Deletes a profile. Returns False when it does not exist."""
    profiles = _profiles()
    profile = profiles.pop(name, None)
    if profile is not None:
        _write(profiles)
    return profile is not None


def _profiles() -> dict[str, dict[str, str]]:
    path = config_file()
    if not path.is_file():
        return {}
    try:
        profiles: dict[str, dict[str, str]] = json.loads(path.read_text())["profiles"]
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise ValueError(
            f"{path} cannot be read ({type(error).__name__}). Delete it and run `difffit login`."
        ) from error
    return profiles


def _write(profiles: dict[str, dict[str, Any]]) -> Path:
    """Replaces the file atomically. It is never readable by others, not even while it is written."""
    path = config_file()
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}")
    partial.unlink(missing_ok=True)
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(json.dumps({"profiles": profiles}, indent=2) + "\n")
    partial.replace(path)
    return path
