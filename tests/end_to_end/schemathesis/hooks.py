"""Authenticates what schemathesis sends: Signature Version 4 for operators, the shared secret for Genesys."""

import hashlib
import hmac
import os
from datetime import datetime, timezone
from urllib.parse import quote, unquote, urlsplit

import schemathesis
from requests.auth import AuthBase

SERVICE = "execute-api"
SIGNED_HEADERS = "host;x-amz-date"


def digest_of(data):
    return hashlib.sha256(data.encode() if isinstance(data, str) else data or b"").hexdigest()


class Signature(AuthBase):
    """Signs a request whose path and query are encoded as in URLs."""

    def __call__(self, request):
        # A blank as SigV4 has it; the server reads both.
        request.url = request.url.replace("+", "%20")
        url = urlsplit(request.url)
        time = datetime.now(timezone.utc).strftime("%Y%m%dT%H%M%SZ")
        pairs = (pair.partition("=") for pair in url.query.split("&") if pair)
        query = sorted((quote(unquote(name), safe="-_.~"), quote(unquote(value), safe="-_.~")) for name, _, value in pairs)
        canonical = "\n".join([
            request.method,
            quote(url.path, safe="/-_.~"),
            "&".join(f"{name}={value}" for name, value in query),
            f"host:{url.netloc}\nx-amz-date:{time}\n",
            SIGNED_HEADERS,
            digest_of(request.body),
        ])
        scope = f"{time[:8]}/{os.environ['AWS_REGION']}/{SERVICE}/aws4_request"
        key = ("AWS4" + os.environ["AWS_SECRET_ACCESS_KEY"]).encode()
        for text in [*scope.split("/"), f"AWS4-HMAC-SHA256\n{time}\n{scope}\n{digest_of(canonical)}"]:
            key = hmac.new(key, text.encode(), hashlib.sha256).digest()
        request.headers["X-Amz-Date"] = time
        request.headers["Authorization"] = (
            f"AWS4-HMAC-SHA256 Credential={os.environ['AWS_ACCESS_KEY_ID']}/{scope}, "
            f"SignedHeaders={SIGNED_HEADERS}, Signature={key.hex()}"
        )
        return request


class SharedSecret(AuthBase):
    def __call__(self, request):
        request.headers["X-Webhook-Secret"] = os.environ["WEBHOOK_SECRET"]
        return request


schemathesis.auth.set_from_requests(SharedSecret()).apply_to(path="/webhook/genesys")
schemathesis.auth.set_from_requests(Signature()).apply_to(path_regex="^/(dlq|conversations)")


def no_placeholder(text):
    """The id of a conversation, without the marks of variables, and with a letter where it has none."""
    for mark in ("$", "{", "%24", "%7B"):
        text = text.replace(mark, "")
    plain = unquote(text).strip().lower()
    tells = plain not in ("null", "undefined") and any(c.isascii() and c.isalnum() and c != "0" for c in plain)
    return text if tells else "c" + text


@schemathesis.hook
def before_call(context, case, kwargs):
    """No schema tells a token that the relay has made from one that looks like it, or an id from a placeholder."""
    valid = case.meta is None or case.meta.generation.mode == schemathesis.GenerationMode.POSITIVE
    if valid and "next" in (case.query or {}):
        case.query["next"] = os.environ["TOKEN_OF_A_LIST"]
    for parameters, name in ((case.path_parameters, "id"), (case.query, "conversationId")):
        if valid and isinstance((parameters or {}).get(name), str):
            parameters[name] = no_placeholder(parameters[name])
