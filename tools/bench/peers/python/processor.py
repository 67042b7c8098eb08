"""The peer of our processor: claims each event of a batch, delivers it and records the outcome, on a pool of threads."""

import base64
import hmac
import json
import math
import os
import random
import sys
import time
import uuid
from concurrent.futures import ThreadPoolExecutor, wait
from datetime import UTC, datetime

import boto3
import urllib3
from boto3.dynamodb.types import TypeDeserializer, TypeSerializer
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from stack_secret import SecretCache, SecretUnavailable, as_list

QUEUE_URL = os.environ["QUEUE_URL"]
EVENTS_TABLE_NAME = os.environ["EVENTS_TABLE_NAME"]
TARGET_URL = os.environ["TARGET_URL"]
TARGET_TIMEOUT_SECONDS = float(os.environ["TARGET_TIMEOUT_SECONDS"])
BACKOFF_BASE_SECONDS = int(os.environ["BACKOFF_BASE_SECONDS"])
BACKOFF_CAP_SECONDS = int(os.environ["BACKOFF_CAP_SECONDS"])
MAX_RECEIVE_COUNT = int(os.environ["MAX_RECEIVE_COUNT"])
SECRET_ARN = os.environ["SECRET_ARN"]
SECRETS_CACHE_SECONDS = int(os.environ.get("SECRETS_CACHE_SECONDS", "300"))
PROCESSOR_THREADS = int(os.environ.get("PROCESSOR_THREADS", "10"))

LIFE_SECONDS = 15 * 24 * 3600
CONNECT_SECONDS = 3
RETRY_AFTER_CEILING = 3600
CLAIM_ROUNDS = 3
CONTENDED_SECONDS = 1
REMEMBERED_ATTEMPTS = 20
EXCERPT_CHARACTERS = 1024
BATCH_ENTRIES = 10

# Before the invocation ends: deliveries are over, a delivery is recorded no more, and the answer is given.
SETTLE_SECONDS = 3
RECORD_SECONDS = 1.75
REPORT_SECONDS = 1.5
RECORD_PAUSE_SECONDS = 0.2

# A claim outlives its invocation by this much, for clocks that differ.
LEASE_PAST_DEADLINE = 5


class Duplicate(Exception):
    """The event was delivered or discarded before."""


class TooEarly(Exception):
    """Another worker has the event, or it waits for its next attempt."""

    def __init__(self, seconds):
        super().__init__("it is being delivered already, or waits for its next attempt")
        self.seconds = seconds


class NotDelivered(Exception):
    """The target did not take the event."""

    def __init__(self, detail, status=None, response=None, retry_after=0):
        super().__init__(detail)
        self.status, self.response, self.retry_after = status, response, retry_after


def log(level, message, **fields):
    line = {"timestamp": time_text(time.time()), "level": level, "message": message, **fields}
    # One write, so that the lines of two threads do not mix.
    sys.stdout.write(json.dumps(line, separators=(",", ":")) + "\n")


def time_text(seconds):
    text = datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
    return text.replace("+00:00", "Z")


# --- INIT: clients, pools and secret are ready before the first batch comes.


def parse_secret(fields):
    keys = as_list(fields.get("targetSigningSecrets"))
    return fields.get("targetAuthorization"), [base64.b64decode(key.removeprefix("whsec_")) for key in keys]


config = Config(
    region_name=os.environ.get("AWS_REGION"),
    connect_timeout=1,
    read_timeout=2,
    retries={"mode": "standard", "total_max_attempts": 2},
    tcp_keepalive=True,
    max_pool_connections=max(10, PROCESSOR_THREADS),
)
session = boto3.Session()
sqs = session.client("sqs", config=config)
dynamodb = session.client("dynamodb", config=config)
secrets = SecretCache(session.client("secretsmanager", config=config), SECRET_ARN, SECRETS_CACHE_SECONDS, parse_secret)
target = urllib3.PoolManager(maxsize=PROCESSOR_THREADS)
threads = ThreadPoolExecutor(max_workers=PROCESSOR_THREADS)
serializer, deserializer = TypeSerializer(), TypeDeserializer()

try:
    secrets.get()
except SecretUnavailable:
    pass


# --- One batch.


def handler(event, context):
    deadline = time.monotonic() + context.get_remaining_time_in_millis() / 1000
    records = event["Records"]
    settling = [threads.submit(settle, record, deadline) for record in records]
    wait(settling, timeout=max(0, deadline - REPORT_SECONDS - time.monotonic()))
    kept = []
    for record, future in zip(records, settling):
        again_at = result_of(record, future, deadline)
        if again_at is not None:
            kept.append((record, again_at))
    set_visibility(kept)
    return {"batchItemFailures": [{"itemIdentifier": record["messageId"]} for record, _ in kept]}


def result_of(record, future, deadline):
    """When SQS shows the record again; None when it may delete it."""
    if future.done() and future.exception() is None:
        return future.result()
    error = repr(future.exception()) if future.done() else "the invocation ran out of time"
    future.cancel()
    # Its lease may stand, and would turn away any worker before its end.
    at = again_at(record, deadline + LEASE_PAST_DEADLINE)
    log_failure(record, error, at)
    return at


def set_visibility(kept):
    """Tells SQS last of all: a short delay could otherwise run out while the batch is still running."""
    for start in range(0, len(kept), BATCH_ENTRIES):
        now = time.monotonic()
        entries = [
            {
                "Id": str(position),
                "ReceiptHandle": record["receiptHandle"],
                "VisibilityTimeout": math.ceil(max(0, at - now)),
            }
            for position, (record, at) in enumerate(kept[start : start + BATCH_ENTRIES])
        ]
        try:
            answer = sqs.change_message_visibility_batch(QueueUrl=QUEUE_URL, Entries=entries)
            failed = answer.get("Failed", [])
        except (BotoCoreError, ClientError) as error:
            failed = [str(error)]
        if failed:
            log("WARN", "records are tried again after the queue's visibility timeout", error=str(failed))


# --- One record.


def settle(record, deadline):
    """Brings a record to its end. Returns when SQS shows it again; None when it may delete it."""
    event_id = attribute(record, "event_id")
    try:
        claimed = claim(record, event_id, deadline)
    except Duplicate:
        log("INFO", "duplicate", event_id=event_id, message_id=record["messageId"])
        return None
    except TooEarly as early:
        at = again_at(record, time.monotonic() + early.seconds)
        log_failure(record, str(early), at)
        return at
    except (BotoCoreError, ClientError) as error:
        at = again_at(record, time.monotonic() + backoff(receive_count(record)))
        log_failure(record, str(error), at)
        return at

    began = time.monotonic()
    try:
        status = deliver(record, event_id, claimed, deadline)
    except NotDelivered as failure:
        attempt = {"status": failure.status, "error": str(failure), "response": failure.response}
        at = record_failure(record, claimed, finished(attempt, began), failure, deadline)
        log_failure(record, str(failure), at, failure.status)
        return at
    attempt = finished({"status": status}, began)
    log(
        "INFO",
        "delivered",
        event_id=event_id,
        source=claimed["source"],
        attempt=claimed["attempts_made"],
        status=status,
        duration_ms=attempt["duration_ms"],
    )
    return record_delivery(record, claimed, attempt, deadline)


def claim(record, event_id, deadline):
    """Claims the event, in one write where it is new."""
    found = read(event_id) if receive_count(record) > 1 else None
    now = time.time()
    for _ in range(CLAIM_ROUNDS):
        if found is not None:
            if found["state"] in ("DELIVERED", "DISCARDED"):
                raise Duplicate
            not_before = found.get("lease_until") or found.get("next_attempt_at") or 0
            if not_before > now * 1000:
                raise TooEarly(float(not_before) / 1000 - now)
        item = {
            "event_id": event_id,
            "revision": str(uuid.uuid4()),
            "state": "IN_PROGRESS",
            "lease_until": int((now + deadline + LEASE_PAST_DEADLINE - time.monotonic()) * 1000),
            "last": is_last(record),
            "source": attribute(record, "source") or "generic",
            "received_at": attribute(record, "received_at") or time_text(now),
            "first_seen_at": found["first_seen_at"] if found else time_text(now),
            "last_seen_at": time_text(now),
            "attempts_made": int(found["attempts_made"]) + 1 if found else 1,
            "attempts": found.get("attempts", []) if found else [],
            "expires_at": int(now) + LIFE_SECONDS,
        }
        written, found = write(item, found)
        if written:
            return item
    raise TooEarly(CONTENDED_SECONDS)


def deliver(record, event_id, claimed, deadline):
    """Sends the event to the target. Returns the status with which it was taken."""
    left = min(TARGET_TIMEOUT_SECONDS, deadline - SETTLE_SECONDS - time.monotonic())
    if left <= 0:
        raise NotDelivered("no time was left to deliver it")
    try:
        authorization, signing_keys = secrets.get()
    except SecretUnavailable as error:
        raise NotDelivered(f"the target's credentials cannot be read: {error}") from error
    body = body_of(record)
    headers = headers_of(record, event_id, claimed)
    if signing_keys:
        headers["webhook-signature"] = sign(signing_keys, event_id, headers["webhook-timestamp"], body)
    if authorization:
        headers["authorization"] = authorization
    timeout = urllib3.Timeout(connect=min(CONNECT_SECONDS, left), total=left)
    try:
        answer = target.request("POST", TARGET_URL, body=body, headers=headers, timeout=timeout, retries=False)
    except urllib3.exceptions.HTTPError as error:
        raise NotDelivered(f"the target cannot be reached: {type(error).__name__}") from error
    if 200 <= answer.status < 300:
        return answer.status
    retry_after = answer.headers.get("retry-after", "")
    raise NotDelivered(
        f"the target answered {answer.status}",
        status=answer.status,
        response=answer.data[:EXCERPT_CHARACTERS].decode("utf-8", "replace"),
        retry_after=int(retry_after) if retry_after.isdecimal() else 0,
    )


def record_delivery(record, claimed, attempt, deadline):
    """Records that the target has the event, as long as there is time. Only then may SQS forget the message."""
    item, previous = step(claimed, "DELIVERED", attempt), claimed
    while time.monotonic() < deadline - RECORD_SECONDS:
        try:
            written, found = write(item, previous)
            if written or (found is not None and found["state"] == "DELIVERED"):
                return None
            previous = found
        except (BotoCoreError, ClientError) as error:
            log("WARN", "a delivery is not recorded yet", event_id=claimed["event_id"], error=str(error))
        time.sleep(RECORD_PAUSE_SECONDS)
    log("ERROR", "delivered, and not recorded", event_id=claimed["event_id"])
    # Kept for the last time, it would be a dead letter that the target has.
    return None if is_last(record) else deadline + LEASE_PAST_DEADLINE


def record_failure(record, claimed, attempt, failure, deadline):
    if is_last(record):
        item, at = step(claimed, "DEAD", attempt, reason="exhausted", error=str(failure)), time.monotonic()
    else:
        delay = max(backoff(claimed["attempts_made"]), min(failure.retry_after, RETRY_AFTER_CEILING))
        next_attempt_at = int((time.time() + delay) * 1000)
        item, at = step(claimed, "RETRYING", attempt, next_attempt_at=next_attempt_at), time.monotonic() + delay
    try:
        written, found = write(item, claimed)
    except (BotoCoreError, ClientError) as error:
        log("ERROR", "how the attempt went is not recorded", event_id=claimed["event_id"], error=str(error))
        return again_at(record, max(at, deadline + LEASE_PAST_DEADLINE))
    if not written and found is not None and found["state"] in ("DELIVERED", "DISCARDED"):
        return None
    return at


# --- The events table.


def read(event_id):
    answer = dynamodb.get_item(TableName=EVENTS_TABLE_NAME, Key={"event_id": {"S": event_id}}, ConsistentRead=True)
    return from_item(answer.get("Item"))


def write(item, previous):
    """Puts the item in the place of `previous`. Returns whether it did, and if not, what was there instead."""
    if previous is None:
        condition = {"ConditionExpression": "attribute_not_exists(event_id)"}
    else:
        condition = {
            "ConditionExpression": "revision = :revision",
            "ExpressionAttributeValues": {":revision": {"S": previous["revision"]}},
        }
    try:
        dynamodb.put_item(
            TableName=EVENTS_TABLE_NAME,
            Item={name: serializer.serialize(value) for name, value in item.items()},
            ReturnValuesOnConditionCheckFailure="ALL_OLD",
            **condition,
        )
    except dynamodb.exceptions.ConditionalCheckFailedException as refusal:
        found = from_item(refusal.response.get("Item"))
        # An earlier try of this very call may have been carried out, and its answer lost.
        return found is not None and found["revision"] == item["revision"], found
    return True, None


def from_item(item):
    return {name: deserializer.deserialize(value) for name, value in item.items()} if item else None


def step(claimed, state, attempt, **fields):
    """The item that follows on a claim."""
    now = time.time()
    kept = {name: value for name, value in claimed.items() if name not in ("lease_until", "last")}
    return {
        **kept,
        **fields,
        "revision": str(uuid.uuid4()),
        "state": state,
        "last_seen_at": time_text(now),
        "attempts": [*claimed["attempts"], attempt][-REMEMBERED_ATTEMPTS:],
        "expires_at": int(now) + LIFE_SECONDS,
    }


def finished(attempt, began):
    attempt = {name: value for name, value in attempt.items() if value is not None}
    return {"at": time_text(time.time()), "duration_ms": round((time.monotonic() - began) * 1000), **attempt}


# --- The message.


def attribute(record, name):
    return record.get("messageAttributes", {}).get(name, {}).get("stringValue")


def body_of(record):
    body = record["body"].encode()
    return base64.b64decode(body) if attribute(record, "encoding") == "base64" else body


def headers_of(record, event_id, claimed):
    headers = json.loads(attribute(record, "headers") or "{}")
    content_type = attribute(record, "content_type")
    if content_type:
        headers["content-type"] = content_type
    headers["webhook-id"] = event_id
    headers["webhook-timestamp"] = str(int(time.time()))
    headers["idempotency-key"] = event_id
    headers["x-relay-attempt"] = str(claimed["attempts_made"])
    headers["x-relay-source"] = claimed["source"]
    return headers


def sign(keys, event_id, timestamp, body):
    """One signature for each key, as Standard Webhooks has it."""
    signed = f"{event_id}.{timestamp}.".encode() + body
    digests = (hmac.digest(key, signed, "sha256") for key in keys)
    return " ".join("v1," + base64.b64encode(digest).decode() for digest in digests)


def receive_count(record):
    return int(record["attributes"]["ApproximateReceiveCount"])


def is_last(record):
    return receive_count(record) >= MAX_RECEIVE_COUNT


# --- When it is tried again.


def backoff(attempt):
    """Whole seconds, as SQS takes them: doubled after each attempt up to the cap, and jitter."""
    delay = min(BACKOFF_CAP_SECONDS, BACKOFF_BASE_SECONDS * 2 ** (attempt - 1))
    return delay + random.randint(0, max(1, delay // 10))


def again_at(record, at):
    """At that time, or at once where SQS is to move the message to the dead letters."""
    return time.monotonic() if is_last(record) else at


def log_failure(record, error, at, status=None):
    log(
        "WARN",
        "delivery failed",
        event_id=attribute(record, "event_id"),
        message_id=record["messageId"],
        attempt=receive_count(record),
        status=status,
        error=error,
        next="done" if at is None else "redrive" if is_last(record) else "retry",
        delay_ms=None if at is None else round(max(0, at - time.monotonic()) * 1000),
    )
