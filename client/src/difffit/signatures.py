"""Verification of webhook events, which the server signs according to Standard Webhooks."""

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Mapping
from typing import Any

from difffit.errors import DiffFitError

TOLERANCE_SECONDS = 300


class InvalidSignature(DiffFitError):
    title = "Not an event of the server"


def verify_webhook(
    secret: str, headers: Mapping[str, str], body: bytes, *, tolerance_seconds: float = TOLERANCE_SECONDS
) -> dict[str, Any]:
    """Returns the event in a webhook request, after checking its signature and time. `secret` is the webhook's secret
    (`whsec_…`), `headers` are the request's headers in any case, `body` is the request's unchanged body.

    Raises InvalidSignature if the event was not signed with the secret, or is older than `tolerance_seconds`.
    """
    given = {name.lower(): value for name, value in headers.items()}
    try:
        id, sent, signatures = (given[f"webhook-{name}"] for name in ("id", "timestamp", "signature"))
        age = abs(time.time() - int(sent))
    except (KeyError, ValueError) as error:
        raise InvalidSignature("The request lacks the headers of a webhook event. Reject it.") from error
    key = base64.b64decode(secret.removeprefix("whsec_"))
    expected = base64.b64encode(hmac.digest(key, f"{id}.{sent}.".encode() + body, hashlib.sha256)).decode()
    if not any(hmac.compare_digest(f"v1,{expected}".encode(), each.encode()) for each in signatures.split()):
        raise InvalidSignature("The signature does not match. Reject the request, and check the webhook's secret.")
    if age > tolerance_seconds:
        raise InvalidSignature(f"The event was signed {age:.0f} s ago. Reject it, or check this machine's clock.")
    event: dict[str, Any] = json.loads(body)
    return event
