"""Python SDK of DiffFit, a service that fine-tunes a diffusion model on image domains and generates images of them.

Start with `Client` or `AsyncClient`. `difffit.models` contains the types of their responses, `difffit.errors` their
exceptions.
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
    from difffit.signatures import verify_webhook as verify_webhook

__version__ = "0.1.0"
__all__ = ["AsyncClient", "Client", "DiffFitError", "Picture", "errors", "models", "read_settings", "verify_webhook"]

_HOMES = {
    "AsyncClient": "difffit._async.client",
    "Client": "difffit._sync.client",
    "DiffFitError": "difffit.errors",
    "Picture": "difffit.pictures",
    "read_settings": "difffit.pictures",
    "verify_webhook": "difffit.signatures",
}


def __getattr__(name: str) -> Any:
    """Imports the public names on first use, so that the `difffit` command prints help and shell completions without
    importing httpx and the models."""
    if name in ("errors", "models"):
        return import_module(f"difffit.{name}")
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'difffit' has no attribute '{name}'")
