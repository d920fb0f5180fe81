"""Secrets and signatures of Standard Webhooks (https://www.standardwebhooks.com)."""

import base64
import secrets
from collections.abc import Sequence
from datetime import UTC, datetime

from standardwebhooks import Webhook


def new_secret() -> str:
    return "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode()


def headers(id: str, timestamp: int, body: str, keys: Sequence[str]) -> dict[str, str]:
    """Returns the HTTP headers of one attempt: the delivery's id, the timestamp in seconds since 1970, and a signature
    of the body with each secret in `keys`."""
    signatures = " ".join(Webhook(key).sign(id, datetime.fromtimestamp(timestamp, UTC), body) for key in keys)
    return {"webhook-id": id, "webhook-timestamp": str(timestamp), "webhook-signature": signatures}
