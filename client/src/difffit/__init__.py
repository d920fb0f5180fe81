"""DiffFit: teach image domains to a server and generate images with them.

Start with `Client` or `AsyncClient`. `models` contains what they return, `errors` what they raise.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from difffit import errors as errors
    from difffit import models as models
    from difffit._async.client import AsyncClient as AsyncClient
    from difffit._sync.client import Client as Client
    from difffit.errors import DiffFitError as DiffFitError
    from difffit.pictures import Picture as Picture
    from difffit.pictures import read_settings as read_settings

__version__ = "0.1.0"
__all__ = ["AsyncClient", "Client", "DiffFitError", "Picture", "errors", "models", "read_settings"]

_HOMES = {
    "AsyncClient": "difffit._async.client",
    "Client": "difffit._sync.client",
    "DiffFitError": "difffit.errors",
    "Picture": "difffit.pictures",
    "read_settings": "difffit.pictures",
}


def __getattr__(name: str) -> Any:
    """Imports attributes on first use, because the command's help and completion need neither HTTP nor models."""
    if name in ("errors", "models"):
        return import_module(f"difffit.{name}")
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'difffit' has no attribute '{name}'")
