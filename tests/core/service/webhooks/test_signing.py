"""Signatures of the library compared with the formula of https://www.standardwebhooks.com."""

import base64
import hashlib
import hmac

from core.service.webhooks.signing import headers, new_secret


def test_signatures_follow_the_formula_for_every_secret() -> None:
    secrets = [new_secret(), new_secret()]
    signed = headers("msg_1", 1700000000, '{"type": "ä"}', secrets)
    content = 'msg_1.1700000000.{"type": "ä"}'.encode()
    keys = [base64.b64decode(secret.removeprefix("whsec_")) for secret in secrets]
    digests = [base64.b64encode(hmac.digest(key, content, hashlib.sha256)).decode() for key in keys]
    assert [len(key) for key in keys] == [32, 32]
    assert signed == {
        "webhook-id": "msg_1",
        "webhook-timestamp": "1700000000",
        "webhook-signature": " ".join(f"v1,{digest}" for digest in digests),
    }
