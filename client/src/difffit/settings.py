"""Settings of the client: the server's address and the API key, from arguments, the environment, or the file that
`difffit login` writes."""

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

DEFAULT_URL = "http://127.0.0.1:8000"
"""Address of the server that `make serve` starts."""
DEFAULT_PROFILE = "default"


@dataclass(frozen=True)
class Settings:
    url: str
    api_key: str | None = field(repr=False)


def resolve(url: str | None = None, api_key: str | None = None, profile: str | None = None) -> Settings:
    """Returns the server's URL and the API key: from the arguments, else from the environment (unless `profile` is
    given), else from the stored profile. A stored API key is only used with the URL that it was stored with. If both
    `url` and `api_key` are given and no profile, neither environment nor file is read.

    Raises ValueError for an unknown profile, an unreadable file, or an address without `http://` or `https://`.
    """
    if url is not None and api_key is not None and profile is None:
        return Settings(checked_url(url), api_key)
    wanted = profile or os.environ.get("DIFFFIT_PROFILE")
    stored = _profiles().get(wanted or DEFAULT_PROFILE)
    if stored is None and wanted:
        raise ValueError(
            f"There is no profile '{wanted}' in {config_file()}. Create it with `difffit --profile {wanted} login`."
        )
    stored = stored or {}
    named = url or (None if profile else os.environ.get("DIFFFIT_URL"))
    address = checked_url(named or stored.get("url") or DEFAULT_URL)
    key = api_key or (None if profile else os.environ.get("DIFFFIT_API_KEY"))
    if key is None and stored.get("url") == address:
        key = stored.get("api_key")
    return Settings(address, key)


def checked_url(url: str) -> str:
    """Returns a server's address without a slash at its end. Raises ValueError if it does not begin with `http://` or
    `https://`."""
    if not url.lower().startswith(("http://", "https://")):
        raise ValueError(
            f"'{url}' is not a complete address. Write http:// or https:// before it, as in {DEFAULT_URL}."
        )
    return url.rstrip("/")


def profile_name(profile: str | None) -> str:
    """Returns the name of the profile to store or delete: `profile`, else `DIFFFIT_PROFILE`, else the default."""
    return profile or os.environ.get("DIFFFIT_PROFILE") or DEFAULT_PROFILE


def config_file() -> Path:
    """Returns the path of the file with the profiles: `DIFFFIT_CONFIG`, or a default in the user's configuration
    folder."""
    if named := os.environ.get("DIFFFIT_CONFIG"):
        return Path(named)
    from platformdirs import user_config_path

    return user_config_path("difffit") / "config.json"


def save_profile(name: str, settings: Settings) -> Path:
    """Stores URL and API key under a profile's name, in a file that only its owner can read. Returns the file's
    path."""
    stored: dict[str, Any] = {"url": settings.url, "api_key": settings.api_key}
    return _write({**_profiles(), name: stored})


def forget_profile(name: str) -> bool:
    """Deletes a stored profile. Returns False if no such profile exists."""
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
    """Replaces the file with the profiles atomically. Other users can never read it, not even while it is being
    written."""
    path = config_file()
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}")
    partial.unlink(missing_ok=True)
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(json.dumps({"profiles": profiles}, indent=2) + "\n")
    partial.replace(path)
    return path
