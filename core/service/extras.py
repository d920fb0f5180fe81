"""Optional dependencies (extras) of the package, such as `pip install ./client '.[dashboard]'`."""

import logging
from functools import cache
from importlib.util import find_spec

logger = logging.getLogger(__name__)
_MODULES = {
    "dashboard": ("nicegui", "difffit", "httpx"),
    "docs": ("fastapi_swagger",),
    "heic": ("pi_heif",),
    "servers": ("psycopg", "redis", "boto3"),
    "traces": ("opentelemetry.sdk", "opentelemetry.exporter", "opentelemetry.instrumentation"),
}


@cache
def is_installed(extra: str) -> bool:
    return all(map(_exists, _MODULES[extra]))


def how_to_install(*extras: str) -> str:
    """Returns the command. It installs the client from the project's folder too, since a package index does not have
    it."""
    return f"in the project's folder, pip install ./client '.[{','.join(extras)}]'"


def log_missing(*extras: str) -> None:
    """Logs one warning that names those of `extras` that are not installed, whose features are therefore off. Logs
    nothing if all are installed."""
    if missing := [extra for extra in extras if not is_installed(extra)]:
        logger.warning("Off, because not installed: %s. Install them: %s", ", ".join(missing), how_to_install(*missing))


def _exists(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # the parent package is not installed
        return False
