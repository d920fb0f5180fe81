"""Where the server is, and which key opens it: as arguments, in the environment, or in the file of `difffit login`."""

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

DEFAULT_URL = "http://127.0.0.1:8000"
"""Of `make serve`."""
DEFAULT_PROFILE = "default"


@dataclass(frozen=True)
class Settings:
    url: str
    api_key: str | None = field(repr=False)


def resolve(url: str | None = None, api_key: str | None = None, profile: str | None = None) -> Settings:
    """What is in force. The file's key goes to the file's URL alone, never to another that was named elsewhere.

    Raises ValueError for a profile that the file does not have, or a file that cannot be read.
    """
    wanted = profile or os.environ.get("DIFFFIT_PROFILE")
    stored = _profiles().get(wanted or DEFAULT_PROFILE)
    if stored is None and wanted:
        raise ValueError(f"There is no profile '{wanted}' in {config_file()}. Make it with `difffit login`.")
    stored = stored or {}
    named = url or (None if profile else os.environ.get("DIFFFIT_URL"))
    found = (named or stored.get("url") or DEFAULT_URL).rstrip("/")
    key = api_key or (None if profile else os.environ.get("DIFFFIT_API_KEY"))
    if key is None and stored.get("url") == found:
        key = stored.get("api_key")
    return Settings(found, key)


def config_file() -> Path:
    """`DIFFFIT_CONFIG`, or in the user's folder for configuration."""
    if named := os.environ.get("DIFFFIT_CONFIG"):
        return Path(named)
    from platformdirs import user_config_path

    return user_config_path("difffit") / "config.json"


def save_profile(name: str, settings: Settings) -> Path:
    """Writes a profile for nobody else to read; the file's path."""
    stored: dict[str, Any] = {"url": settings.url, "api_key": settings.api_key}
    return _write({**_profiles(), name: stored})


def forget_profile(name: str) -> bool:
    """False when there was none."""
    profiles = _profiles()
    found = profiles.pop(name, None)
    if found is not None:
        _write(profiles)
    return found is not None


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
    """In one move, with its permissions from the first byte on."""
    path = config_file()
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}")
    partial.unlink(missing_ok=True)
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(json.dumps({"profiles": profiles}, indent=2) + "\n")
    partial.replace(path)
    return path
