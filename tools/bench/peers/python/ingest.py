"""The peer of our ingest function: authenticates a webhook, names its event and puts it into SQS before it answers."""

import base64
import binascii
import hashlib
import hmac
import json
import os
import re
import time
from datetime import UTC, datetime

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from stack_secret import SecretCache, SecretUnavailable, as_list

QUEUE_URL = os.environ["QUEUE_URL"]
SECRET_ARN = os.environ["SECRET_ARN"]
SECRETS_CACHE_SECONDS = int(os.environ["SECRETS_CACHE_SECONDS"])
LOG_LEVEL = os.environ["LOG_LEVEL"].lower()

# SQS takes 1 MiB; the rest is left for the reason that a dead letter carries.
MAX_MESSAGE_BYTES = 1024 * 1024 - 16 * 1024
MIN_SECRET_BYTES = 16
GENERIC_SLOT_SECONDS = 300
RETRY_AFTER_SECONDS = "5"
LEVELS = ["debug", "info", "warn", "error"]
TITLES = {
    400: "Bad Request",
    401: "Unauthorized",
    405: "Method Not Allowed",
    413: "Payload Too Large",
    503: "Service Unavailable",
}

GROUP_ID = re.compile(r"[!-~]{1,128}")
REFUSED_BY_SQS = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


class Refused(Exception):
    """The webhook is not accepted."""

    def __init__(self, status, detail):
        super().__init__(detail)
        self.status = status


def log(level, message, **fields):
    if LEVELS.index(level) >= LEVELS.index(LOG_LEVEL):
        line = {"timestamp": now_text(), "level": level.upper(), "message": message, **fields}
        print(json.dumps(line, separators=(",", ":")))


def now_text():
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


# --- INIT: clients, secret and connection are ready before the first webhook comes.


def parse_secret(fields):
    kinds = {name: as_list(fields.get(name)) for name in ("openMessagingSecrets", "webhookSecrets")}
    if any(len(secret.encode()) < MIN_SECRET_BYTES for secrets in kinds.values() for secret in secrets):
        raise ValueError("an entry has fewer than 16 characters")
    return {name: [secret.encode() for secret in secrets] for name, secrets in kinds.items()}


config = Config(
    region_name=os.environ.get("AWS_REGION"),
    connect_timeout=1,
    read_timeout=2,
    retries={"mode": "standard", "total_max_attempts": 2},
    tcp_keepalive=True,
)
session = boto3.Session()
sqs = session.client("sqs", config=config)
secrets = SecretCache(session.client("secretsmanager", config=config), SECRET_ARN, SECRETS_CACHE_SECONDS, parse_secret)


def warm_up():
    try:
        secrets.get()
    except SecretUnavailable:
        pass
    try:
        # Opens the connection. AWS answers EmptyBatchRequest.
        sqs.send_message_batch(QueueUrl=QUEUE_URL, Entries=[])
    except (BotoCoreError, ClientError):
        pass


warm_up()


# --- One webhook.


def handler(event, context):
    headers = {name.lower(): value for name, value in (event.get("headers") or {}).items()}
    try:
        if event["requestContext"]["http"]["method"] != "POST":
            raise Refused(405, "Send the event with POST.")
        event_id, source, size = ingest(headers, raw_body(event))
    except Refused as refused:
        level = "error" if refused.status == 503 else "warn"
        cause = refused.__cause__ and str(refused.__cause__)
        log(level, "not accepted", status=refused.status, reason=str(refused), error=cause)
        return problem(refused.status, str(refused))
    log(
        "info",
        "accepted",
        event_id=event_id,
        source=source,
        bytes=size,
        webhook_id=headers.get("x-genesys-webhook-id"),
    )
    return answer(200, "application/json", {"status": "accepted", "eventId": event_id})


def raw_body(event):
    body = event.get("body") or ""
    if event.get("isBase64Encoded"):
        try:
            return base64.b64decode(body, validate=True)
        except binascii.Error:
            pass
    return body.encode("utf-8", "surrogatepass")


def ingest(headers, body):
    authenticate(headers, body)
    if not body:
        raise Refused(400, "The body is empty. Send the event as a JSON object or array.")
    if len(body) > MAX_MESSAGE_BYTES:
        raise Refused(413, f"The event has {len(body)} bytes, and at most {MAX_MESSAGE_BYTES} fit.")
    received_at = int(time.time())
    text, parsed = parse(body)
    event_id, source, origin = identify(parsed, received_at, headers.get("idempotency-key") or headers.get("webhook-id"))
    attributes = {"event_id": event_id, "source": source, "received_at": now_text()}
    if headers.get("content-type"):
        attributes["content_type"] = headers["content-type"]
    kept = {name: value for name, value in headers.items() if is_kept(name) and value.isascii()}
    if kept:
        attributes["headers"] = json.dumps(kept, sort_keys=True, separators=(",", ":"))
    if REFUSED_BY_SQS.search(text):
        attributes["encoding"] = "base64"
        text = base64.b64encode(body).decode()
    size = len(text.encode()) + sum(len(name) + len("String") + len(value.encode()) for name, value in attributes.items())
    if size > MAX_MESSAGE_BYTES:
        raise Refused(413, f"The event makes a message of {size} bytes, and at most {MAX_MESSAGE_BYTES} fit.")
    message = {
        "QueueUrl": QUEUE_URL,
        "MessageBody": text,
        "MessageAttributes": {name: {"DataType": "String", "StringValue": value} for name, value in attributes.items()},
    }
    if isinstance(origin, str) and GROUP_ID.fullmatch(origin):
        message["MessageGroupId"] = origin
    try:
        sqs.send_message(**message)
    except (BotoCoreError, ClientError) as error:
        raise Refused(503, "The relay cannot store the event at the moment. Send it again.") from error
    return event_id, source, size


def is_kept(name):
    return name in ("x-hub-signature-256", "traceparent") or name.startswith(("x-genesys-", "inin-"))


# --- Who sent it.


def authenticate(headers, body):
    """Refuses a proof only by secrets that were read within the last seconds: Genesys drops an event on a 401."""
    kind, matches = find_proof(headers, body)
    try:
        if any_matches(matches, secrets.get()[kind]):
            return
        keys = secrets.get_fresh()[kind]
    except SecretUnavailable as error:
        raise Refused(503, "The relay cannot check this request at the moment. Send it again.") from error
    if not keys:
        raise Refused(503, f"The relay cannot check this request yet: {kind} is not set.")
    if not any_matches(matches, keys):
        raise Refused(401, "The signature or secret does not match.")


def any_matches(matches, keys):
    # A list: stopping at the first that matches would tell by time which one it was.
    return any([matches(key) for key in keys])


def find_proof(headers, body):
    """Which secrets the request has to be compared with, and how. A signature that is there has to hold."""
    signature = headers.get("x-hub-signature-256")
    if signature is not None:
        given = decode_signature(signature)
        return "openMessagingSecrets", lambda key: hmac.compare_digest(hmac.digest(key, body, "sha256"), given)
    secret = headers.get("x-webhook-secret")
    if secret is None:
        raise Refused(401, "Send X-Hub-Signature-256 (Open Messaging) or X-Webhook-Secret.")
    # Hashes, because comparing texts of unequal length would tell the length.
    given = hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()
    return "webhookSecrets", lambda key: hmac.compare_digest(hashlib.sha256(key).digest(), given)


def decode_signature(value):
    scheme, _, encoded = value.strip().partition("=")
    try:
        signature = base64.b64decode(encoded, validate=True)
    except ValueError:
        signature = b""
    if scheme != "sha256" or len(signature) != 32:
        raise Refused(401, "X-Hub-Signature-256 must be sha256= and the base64 of the body's HMAC-SHA256.")
    return signature


# --- Which event it is.


def parse(body):
    try:
        text = body.decode("utf-8")
        value = json.loads(text.removeprefix("\ufeff"), parse_constant=not_json)
    except (ValueError, RecursionError) as error:
        raise Refused(400, "The body is not JSON. Send a JSON object or array.") from error
    if not isinstance(value, (dict, list)):
        raise Refused(400, "The body is JSON, but neither an object nor an array.")
    return text, value


def not_json(name):
    raise ValueError(f"{name} is not JSON")


def identify(value, received_at, sender_key):
    """The event's id and source, and the webhook or integration that it belongs to."""
    if isinstance(value, dict) and "type" in value and isinstance(value.get("channel"), dict):
        source, origin = "open-messaging", value["channel"].get("id")
        parts = open_messaging_parts(value, value["channel"])
        if all(isinstance(part, str) for part in parts):
            return hash_parts(source, *parts), source, origin
    elif isinstance(value, dict) and {"webhookId", "payload", "timestamp"} <= value.keys():
        return hash_parts("webhook", canonical(value)), "webhook", value["webhookId"]
    else:
        source, origin = "generic", None
    if sender_key:
        return hash_parts("keyed", sender_key, canonical(value)), source, origin
    slot = (received_at // GENERIC_SLOT_SECONDS).to_bytes(8, "big")
    return hash_parts("generic", slot, canonical(value)), source, origin


def open_messaging_parts(message, channel):
    """A receipt has the id of the message it is about, and a typing event one of its own only with its time."""
    variant = ""
    if message["type"] == "Receipt":
        variant = message.get("status")
    elif message["type"] == "Event":
        variant = channel.get("time")
    return channel.get("id"), message["type"], message.get("id"), variant


def canonical(value):
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def hash_parts(*parts):
    """A hash of the parts and their lengths, so that no two lists of parts collide."""
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, str):
            part = part.encode("utf-8", "surrogatepass")
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)
    return base64.urlsafe_b64encode(digest.digest()).rstrip(b"=").decode()


# --- Answers.


def problem(status, detail):
    """Problem details of RFC 9457."""
    body = {"type": "about:blank", "title": TITLES[status], "status": status, "detail": detail}
    response = answer(status, "application/problem+json", body)
    if status == 503:
        response["headers"]["retry-after"] = RETRY_AFTER_SECONDS
    if status == 405:
        response["headers"]["allow"] = "POST"
    return response


def answer(status, content_type, body):
    return {
        "statusCode": status,
        "headers": {"content-type": content_type},
        "body": json.dumps(body, separators=(",", ":")),
    }
