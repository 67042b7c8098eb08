"""Verifies deliveries of the relay: Standard Webhooks 1.0, symmetric signatures. Python 3.11, no packages."""

import base64
import hashlib
import hmac
import time

TOLERANCE_SECONDS = 5 * 60
SHORTEST_KEY_BYTES = 24


def verify(secret, headers, body, now=None):
    """Returns the event's id, or raises ValueError: answer 401. RuntimeError: the secret here is no key; answer 500.

    `secret` begins with whsec_, `headers` have lower-case names, and `body` has the bytes as they came.
    """
    try:
        key = base64.b64decode((secret or "").strip().removeprefix("whsec_"), validate=True)
    except ValueError:
        key = b""
    # With an empty key, of a variable that is not set, anyone can sign.
    if len(key) < SHORTEST_KEY_BYTES:
        raise RuntimeError("the signing secret must be whsec_ and the base64 of at least 24 bytes: is its variable set?")
    event_id = headers.get("webhook-id", "")
    timestamp = headers.get("webhook-timestamp", "")
    now = time.time() if now is None else now
    if not (timestamp.isascii() and timestamp.isdigit()) or abs(now - int(timestamp)) > TOLERANCE_SECONDS:
        raise ValueError("webhook-timestamp is more than five minutes away from this machine's clock")
    mac = hmac.new(key, f"{event_id}.{timestamp}.".encode() + body, hashlib.sha256)
    expected = b"v1," + base64.b64encode(mac.digest())
    # One signature for each secret of the relay: during a rotation there are two.
    signatures = headers.get("webhook-signature", "").encode().split(b" ")
    if not any(hmac.compare_digest(signature, expected) for signature in signatures):
        raise ValueError("no signature of webhook-signature is of this secret")
    return event_id
