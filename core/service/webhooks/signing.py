"""Secrets and signatures of Standard Webhooks (https://www.standardwebhooks.com)."""

import base64
import hashlib
import hmac
import secrets
from collections.abc import Sequence

_PREFIX = "whsec_"


def new_secret() -> str:
    return _PREFIX + base64.b64encode(secrets.token_bytes(32)).decode()


def headers(id: str, timestamp: int, body: str, keys: Sequence[str]) -> dict[str, str]:
    """Returns the headers of one attempt, signed with every valid secret. `timestamp`: seconds since 1970."""
    signatures = " ".join(_signature(key, f"{id}.{timestamp}.{body}") for key in keys)
    return {"webhook-id": id, "webhook-timestamp": str(timestamp), "webhook-signature": signatures}


def _signature(secret: str, content: str) -> str:
    key = base64.b64decode(secret.removeprefix(_PREFIX))
    return "v1," + base64.b64encode(hmac.digest(key, content.encode(), hashlib.sha256)).decode()
