"""Secrets and signatures of Standard Webhooks (https://www.standardwebhooks.com)."""

import base64
import secrets
from collections.abc import Sequence
from datetime import UTC, datetime

from standardwebhooks import Webhook


def new_secret() -> str:
    return "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode()


def headers(id: str, timestamp: int, body: str, keys: Sequence[str]) -> dict[str, str]:
    """Returns the headers of one attempt, signed with every valid secret. `timestamp`: seconds since 1970."""
    signatures = " ".join(Webhook(key).sign(id, datetime.fromtimestamp(timestamp, UTC), body) for key in keys)
    return {"webhook-id": id, "webhook-timestamp": str(timestamp), "webhook-signature": signatures}
