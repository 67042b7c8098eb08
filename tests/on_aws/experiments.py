"""Experiments: each asks one question that only a real AWS answers, or whose answer the local AWS may have wrong.

An experiment is a function of the relay that gives a verdict (as believed, or not) and what it found. Its docstring is the
question, then the steps. They run in the order of this file, on one stack, and each leaves the queues empty.
"""

from __future__ import annotations

import json
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from inspect import getdoc
from pathlib import Path
from typing import Callable

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

from relay import NotPossible, Relay, Unmet, code_of, remove_role, until

ROOT = Path(__file__).resolve().parents[2]

Found = tuple[bool, str]

# Just below what ingest accepts: 1 MiB without the 16 KiB that it leaves for a reason and attributes.
LARGE = 1_030_000


@dataclass(frozen=True)
class Experiment:
    name: str
    question: str
    steps: str
    relies: str
    expected: str
    not_here: str | None
    run: Callable[[Relay], Found]


ALL: list[Experiment] = []


def experiment(relies: str, expected: str, not_here: str | None = None) -> Callable:
    """Registers an experiment: the file that relies on the answer, the answer that it believes in, and why the local AWS
    cannot give it."""

    if not (ROOT / relies).exists():
        raise FileNotFoundError(relies)

    def register(run: Callable[[Relay], Found]) -> Callable:
        question, _, steps = (getdoc(run) or "").partition("\n\n")
        name = run.__name__.replace("_", "-")
        ALL.append(Experiment(name, question, " ".join(steps.split()), relies, expected, not_here, run))
        return run

    return register


def refusal(call: Callable, **arguments: object) -> str:
    """The code with which AWS refuses a call, or `accepted`."""
    try:
        call(**arguments)
    except ClientError as error:
        return code_of(error)
    return "accepted"


def large(relay: Relay, name: str, **orders: object) -> bytes:
    body = json.loads(relay.body(name, **orders))
    body["fill"] = ""
    body["fill"] = "x" * (LARGE - len(json.dumps(body).encode()))
    return json.dumps(body).encode()


def discard(relay: Relay, event_ids: list[str]) -> None:
    """Takes dead letters away, so that the next experiment finds none."""
    relay.act("Replay", {"action": "discard", "eventIds": event_ids, "why": "the experiment is over"})
    relay.until_state(event_ids, "DISCARDED")


# ---- The way of an event ----------------------------------------------------------------------------------------------


@experiment("docs/operate/deploy.md", "200, and DELIVERED after one attempt; 401 without a signature")
def webhook_is_delivered(relay: Relay) -> Found:
    """Do the deployed binaries run, and is a signed webhook delivered?

    Send a signed webhook and an unsigned one. Wait for the record.
    """
    status, answer = relay.post(relay.body("first"))
    unsigned, _ = relay.post(relay.body("unsigned"), {})
    relay.until_state([answer["eventId"]], "DELIVERED")
    attempts = len(relay.target.received("first"))
    return (status, unsigned, attempts) == (
        200,
        401,
        1,
    ), f"{status}, delivered after {attempts} attempt(s); unsigned {unsigned}"


@experiment("template.yaml", "nested stack complete")
def nested_stack_is_deployed(relay: Relay) -> Found:
    """Does a deploy make the nested stack of alarms, dashboard and saved queries?

    Read the resource Observability.
    """
    found = relay.client("cloudformation").describe_stack_resource(
        StackName=relay.stack, LogicalResourceId="Observability"
    )
    status = found["StackResourceDetail"]["ResourceStatus"]
    return status in ("CREATE_COMPLETE", "UPDATE_COMPLETE"), status


@experiment("docs/operate/http-api.md", "403 unsigned, 200 signed")
def dead_letters_need_a_signature(relay: Relay) -> Found:
    """Does the route /dlq refuse a call that is not signed for IAM?

    Call it without a signature, then signed.
    """
    unsigned, signed = relay.call("GET", "/dlq")[0], relay.call_signed("GET", "/dlq")[0]
    return (unsigned, signed) == (403, 200), f"{unsigned} unsigned, {signed} signed"


@experiment("docs/operate/console.md", "look: allowed; act: AccessDeniedException; no invocation of replay")
def dry_run_tells_what_is_allowed(relay: Relay) -> Found:
    """Does `InvocationType: DryRun` tell what a person may do, and run nothing?

    Make a role with the look policy alone, assume it, and ask to invoke look and replay.
    """
    iam, name = relay.client("iam"), f"{relay.stack}-on-aws-look"
    me = relay.client("sts").get_caller_identity()["Account"]
    trust = {"Effect": "Allow", "Principal": {"AWS": f"arn:aws:iam::{me}:root"}, "Action": "sts:AssumeRole"}
    document = json.dumps({"Version": "2012-10-17", "Statement": [trust]})
    role = iam.create_role(RoleName=name, AssumeRolePolicyDocument=document)["Role"]["Arn"]
    try:
        iam.attach_role_policy(RoleName=name, PolicyArn=relay.output("LookPolicyArn"))

        def assume() -> dict | None:
            try:
                return relay.client("sts").assume_role(RoleArn=role, RoleSessionName="on-aws")["Credentials"]
            except ClientError as error:
                # A new role is unknown for some seconds.
                if code_of(error) != "AccessDenied":
                    raise
                return None

        keys = until("the role can be assumed", assume, 120, 2)
        client = boto3.Session(keys["AccessKeyId"], keys["SecretAccessKey"], keys["SessionToken"], relay.region).client(
            "lambda"
        )

        def ask(function: str) -> str:
            return refusal(client.invoke, FunctionName=relay.function(function), InvocationType="DryRun", Payload=b"{}")

        look = until("the policy holds", lambda: ask("Look") == "accepted" and "accepted", 120, 2)
        act = ask("Replay")
    finally:
        remove_role(iam, name)
    return (look, act) == ("accepted", "AccessDeniedException"), f"look: {look}, replay: {act}"


@experiment("docs/design/threat-model.md", "neither is refused")
def keys_of_items_are_judged(relay: Relay) -> Found:
    """Does `dynamodb:LeadingKeys` have the keys of each call, `BatchGetItem` and `DeleteItem` included, and
    `lambda:FunctionArn` the function of a mapping whose update names none?

    Run the breaker and reconcile, which write items of their own and set the mappings.
    """
    answers = [relay.until_free("Breaker", {"action": "run"}), relay.until_free("Replay", {"action": "reconcile"})]
    errors = [answer["errorMessage"] for answer in answers if "errorType" in answer]
    return not errors, "; ".join(errors) or "both ran"


@experiment("docs/operate/archive.md", "ArchiveError, not an empty answer")
def missing_object_is_an_error(relay: Relay) -> Found:
    """What does a restore say of an object that is not there, where the role may list the bucket?

    Restore the key `none`.
    """
    answer = relay.until_free("Replay", {"action": "restore", "key": "none"})
    return answer.get("errorType") == "ArchiveError", f"{answer.get('errorType')}: {answer.get('errorMessage')}"


@experiment(
    "template.yaml", "AccessDenied by SQS and by S3", "its policies are left out: everything is plain HTTP on loopback"
)
def plain_http_is_refused(relay: Relay) -> Found:
    """Do the policies of queues and bucket refuse plain HTTP?

    Send to the queue and put an object over http.
    """
    queue, bucket = relay.output("QueueUrl"), relay.output("ArchiveBucketName")
    sqs, s3 = (
        relay.session.client(s, use_ssl=False, config=Config(retries={"total_max_attempts": 1})) for s in ("sqs", "s3")
    )
    codes = (
        refusal(sqs.send_message, QueueUrl=queue.replace("https:", "http:"), MessageBody="{}"),
        refusal(s3.put_object, Bucket=bucket, Key="on-aws/plain", Body=b""),
    )
    return all("AccessDenied" in code for code in codes), f"SQS: {codes[0]}, S3: {codes[1]}"


# ---- The HTTP API -----------------------------------------------------------------------------------------------------


def access_log(relay: Relay) -> str:
    return f"/aws/vendedlogs/{relay.stack}-api"


@experiment(
    "docs/operate/who-did-it.md", "the ARN of the caller, and in the audit line as well", "it writes no access log"
)
def access_log_names_the_caller(relay: Relay) -> Found:
    """Does `$context.identity.userArn` have the caller of a route with IAM?

    Call /dlq signed, and read the access log and the audit line.
    """
    since, me = time.time() - 5, relay.client("sts").get_caller_identity()["Arn"]
    relay.call_signed("GET", "/dlq")
    lines = relay.log_lines(
        access_log(relay), since, 180, lambda line: line.get("routeKey") == "GET /dlq" and line["status"] == "200"
    )
    audit = relay.log_lines(relay.lambda_log("Look"), since, 180, lambda line: me in json.dumps(line))
    caller = lines[0]["caller"] if lines else "no line"
    return bool(
        audit
    ) and caller == me, f"access log: {'the caller' if caller == me else caller}; {len(audit)} audit line(s)"


@experiment(
    "docs/operate/alarms.md", "each filter takes its own line and no other", "its filters know plain strings only"
)
def log_filters_take_their_lines(relay: Relay) -> Found:
    """Do the metric filters of the access log take the lines that they are meant for?

    Ask CloudWatch Logs to test both filters with four lines.
    """
    line = {"routeKey": "POST /webhook/genesys", "status": "200", "integrationError": "-", "error": "-"}
    lines = [
        line,
        {**line, "status": "429"},
        {**line, "status": "503"},
        {**line, "status": "503", "integrationError": "x"},
    ]
    logs, found = relay.client("logs"), {}
    for listed in logs.describe_metric_filters(logGroupName=access_log(relay))["metricFilters"]:
        matches = logs.test_metric_filter(
            filterPattern=listed["filterPattern"], logEventMessages=[json.dumps(line) for line in lines]
        )
        metric = listed["metricTransformations"][0]["metricName"]
        found[metric] = sorted(int(match["eventNumber"]) for match in matches["matches"])
    # Numbered from 1.
    return found == {"ApiThrottled": [2], "ApiFailed": [4]}, json.dumps(found)


@experiment("docs/use/what-senders-are-told.md", "413, which is no failure of the API")
def body_above_six_megabytes(relay: Relay) -> Found:
    """What is a sender told whose body API Gateway accepts and Lambda does not?

    Send 7,000,000 bytes, and read the access log, which the local AWS does not write.
    """
    since = time.time() - 5
    status, _ = relay.post(b"x" * 7_000_000)
    lines = relay.log_lines(
        access_log(relay), since, 0 if relay.is_local else 180, lambda line: line.get("status") == str(status)
    )
    return status == 413, f"{status}; access log: {json.dumps(lines[:1])}"


@experiment("docs/operate/alarms.md", "429 for some, a line for each, metric ApiThrottled", "it does not throttle")
def throttled_api(relay: Relay) -> Found:
    """Does API Gateway answer 429 beyond the limit, log it, and does the metric follow?

    Deploy a limit of one a second, send fifty at once, deploy the former limit.
    """
    relay.update(ThrottlingRateLimit=1, ThrottlingBurstLimit=1)
    since = time.time()
    try:
        # The stage follows its deploy after some seconds.
        def some_are_throttled() -> list[int] | None:
            with ThreadPoolExecutor(50) as pool:
                statuses = [
                    status for status, _ in pool.map(lambda n: relay.post(relay.body(f"throttled {n}")), range(50))
                ]
            return statuses if 429 in statuses else None

        statuses = until("a webhook is answered 429", some_are_throttled, 120, 5)
    finally:
        relay.update(ThrottlingRateLimit=1000, ThrottlingBurstLimit=500)
    refused = statuses.count(429)
    counted = relay.until_metric(f"GenesysRelay/{relay.stack}", "ApiThrottled", {}, since, refused)
    return bool(
        counted
    ), f"{refused} of 50 answered 429, others {sorted(set(statuses) - {429})}; ApiThrottled {counted}"


@experiment(
    "docs/use/what-senders-are-told.md",
    "429 or 5xx to the sender, which Genesys Cloud tries again; with 5xx a text in integrationError",
    "it answers 429 by itself, with no integration in between",
)
def throttled_ingest(relay: Relay) -> Found:
    """What is a sender told when Lambda throttles ingest?

    Set the reserved concurrency of ingest to 0, send one webhook, and read the access log.
    """
    since = time.time() - 5
    relay.stop("Ingest")
    try:
        status = until(
            "ingest is throttled", lambda: (s := relay.post(relay.body("to a stopped ingest"))[0]) != 200 and s, 60, 2
        )
    finally:
        relay.start("Ingest")
    lines = relay.log_lines(access_log(relay), since, 180, lambda line: line.get("status") == str(status))
    text = lines[0]["integrationError"] if lines else "no line"
    return status == 429 or (status >= 500 and text not in ("-", "no line")), f"{status}, integrationError: {text}"


# ---- Lambda and SQS ---------------------------------------------------------------------------------------------------


@experiment("docs/use/limits.md", "all ten DELIVERED")
def ten_events_of_a_mebibyte(relay: Relay) -> Found:
    """Are ten events of almost 1 MiB delivered, which are more than one invocation may carry?

    Disable the mapping, send ten bodies of 1,030,000 bytes, enable it.
    """
    relay.enable(False)
    try:
        ids = relay.accept_all([large(relay, "large") for _ in range(10)])
    finally:
        relay.enable(True)
    relay.until_state(ids, "DELIVERED")
    received = relay.target.received("large")
    whole = sum(1 for note in received if note["bytes"] == LARGE)
    return whole >= 10, f"{len(ids)} delivered; the target received {whole} of {LARGE} bytes"


@experiment("docs/use/limits.md", "DEAD with its body in the dead-letter queue, then DISCARDED")
def dead_letter_of_a_mebibyte(relay: Relay) -> Found:
    """Does an event of almost 1 MiB fit into the dead-letter queue, with its reason?

    Send 1,030,000 bytes that the target refuses. Discard the dead letter.
    """
    event = relay.accept(large(relay, "large and dead", answers=[404]))
    relay.until_state([event], "DEAD")
    in_queue = until("the dead letter can be received", lambda: relay.depth(relay.output("DeadLetterQueueUrl"))[0])
    discard(relay, [event])
    return in_queue == 1, f"{in_queue} dead letter(s), discarded"


@experiment("docs/operate/actions.md", "all five DELIVERED by the move")
def move_task_with_groups(relay: Relay) -> Found:
    """Does a move task of SQS bring back messages that have a message group on a standard queue?

    Let five events be refused once, then replay everything.
    """
    ids = relay.accept_all([relay.body(f"moved {n}", answers=[404, 200]) for n in range(5)])
    relay.until_state(ids, "DEAD")
    until("all are in the queue", lambda: relay.depth(relay.output("DeadLetterQueueUrl"))[0] == 5)
    began = time.time()
    relay.act("Replay", {"action": "replay", "all": True, "why": "an experiment"})
    relay.until_state(ids, "DELIVERED", 600)
    return True, f"5 delivered {time.time() - began:.0f} s after the request"


@experiment(
    "docs/operate/only-on-aws.md", "the dead letter keeps the message id; the mapping stays enabled; Errors counts"
)
def processor_that_ends_in_init(relay: Relay) -> Found:
    """What becomes of an event whose processor ends in INIT, and what does the mapping do?

    Set a TARGET_URL that the processor refuses and a visibility timeout of two seconds. Send a bare message to the queue.
    Wait until SQS has moved it to the dead-letter queue. Put both back.
    """
    sqs, queue, dead = relay.client("sqs"), relay.output("QueueUrl"), relay.output("DeadLetterQueueUrl")
    former, variables = relay.attributes(queue), relay.variables("Processor")
    limit, since = json.loads(former["RedrivePolicy"])["maxReceiveCount"], time.time()
    relay.configure("Processor", Environment={"Variables": {**variables, "TARGET_URL": "x"}})
    sqs.set_queue_attributes(QueueUrl=queue, Attributes={"VisibilityTimeout": "2"})
    try:
        sent = sqs.send_message(QueueUrl=queue, MessageBody=json.dumps({"note": "without id and time", "at": since}))[
            "MessageId"
        ]

        def moved() -> dict | None:
            got = sqs.receive_message(
                QueueUrl=dead, WaitTimeSeconds=1, VisibilityTimeout=0, MessageSystemAttributeNames=["All"]
            )
            return got["Messages"][0] if got.get("Messages") else None

        message = until("SQS moves the message", moved, 600)
        seconds, state = time.time() - since, relay.mapping()["State"]
    finally:
        sqs.set_queue_attributes(QueueUrl=queue, Attributes={"VisibilityTimeout": former["VisibilityTimeout"]})
        relay.configure("Processor", Environment={"Variables": variables})
    is_same, receives = message["MessageId"] == sent, message["Attributes"]["ApproximateReceiveCount"]
    counted = "not counted here"
    if not relay.is_local:
        names = {"FunctionName": relay.function("Processor")}
        counted = relay.until_metric("AWS/Lambda", "Errors", names, since, 1)
    sqs.purge_queue(QueueUrl=dead)
    until("the dead letter is gone", lambda: sum(relay.depth(dead)) == 0)
    relay.act("Replay", {"action": "reconcile"})
    found = (
        f"moved after {seconds:.0f} s with maxReceiveCount {limit}; receives then: {receives}; message id "
        f"{'kept' if is_same else 'changed'}; mapping {state}; Errors: {counted}"
    )
    return is_same and state == "Enabled" and bool(counted), found


@experiment("docs/design/aws-traps.md", "delivered, not dead; the receives that it cost are what is asked")
def throttled_processor(relay: Relay) -> Found:
    """How many receives does an event lose while Lambda throttles the processor?

    Set the reserved concurrency of the processor to 0 and a visibility timeout of five seconds, send an event, and look on for
    half a minute. Disable the mapping, and receive the event to see its receives. Set all back.
    """
    relay.update(MaxReceiveCount=25)
    sqs, queue = relay.client("sqs"), relay.output("QueueUrl")
    former = relay.attributes(queue)["VisibilityTimeout"]
    relay.stop("Processor")
    sqs.set_queue_attributes(QueueUrl=queue, Attributes={"VisibilityTimeout": "5"})
    try:
        event = relay.accept(relay.body("throttled"))
        # The time that is asked about; nothing is waited for.
        time.sleep(2 if relay.is_local else 30)
        relay.enable(False)

        def receive() -> list[dict] | None:
            return sqs.receive_message(
                QueueUrl=queue,
                VisibilityTimeout=0,
                WaitTimeSeconds=1,
                MessageSystemAttributeNames=["ApproximateReceiveCount"],
            ).get("Messages")

        lost = int(until("the event can be received", receive)[0]["Attributes"]["ApproximateReceiveCount"]) - 1
    finally:
        sqs.set_queue_attributes(QueueUrl=queue, Attributes={"VisibilityTimeout": former})
        relay.start("Processor")
        relay.enable(True)
    relay.until_state([event], "DELIVERED", 900)
    relay.update(MaxReceiveCount=3)
    return True, f"{lost} receives lost, then delivered"


@experiment("docs/design/aws-traps.md", "20 attempts, then DEAD; no invocation dropped", "it does not look for loops")
def retries_are_no_loop(relay: Relay) -> Found:
    """Does Lambda take a chain of twenty retries for a recursive loop, which it stops after some 16?

    Deploy 20 receives, send an event that always fails, and wait until it is dead.
    """
    since = time.time()
    relay.update(MaxReceiveCount=20)
    event = relay.accept(relay.body("always fails", answers=[503]))
    relay.until_state([event], "DEAD", 900)
    attempts = len(relay.target.received("always fails"))
    dropped = relay.metric(
        "AWS/Lambda", "RecursiveInvocationsDropped", {"FunctionName": relay.function("Processor")}, since
    )
    discard(relay, [event])
    relay.update(MaxReceiveCount=3)
    return attempts == 20 and not dropped, f"{attempts} attempts; RecursiveInvocationsDropped: {dropped}"


@experiment(
    "docs/design/aws-traps.md",
    "1 MiB accepted; the other three refused",
    "it accepts eleven attributes and any visibility timeout",
)
def limits_of_sqs(relay: Relay) -> Found:
    """Does SQS refuse a byte more than 1 MiB, eleven attributes, and a visibility of more than twelve hours?

    Try each on a queue of its own.
    """
    sqs, queue = relay.client("sqs"), relay.temporary_queue("limits", MaximumMessageSize="1048576")
    try:
        whole = refusal(sqs.send_message, QueueUrl=queue, MessageBody="x" * 1048576)
        more = refusal(sqs.send_message, QueueUrl=queue, MessageBody="x" * 1048577)
        eleven = {f"a{n}": {"DataType": "String", "StringValue": "x"} for n in range(11)}
        attributes = refusal(sqs.send_message, QueueUrl=queue, MessageBody="x", MessageAttributes=eleven)
        received = sqs.receive_message(QueueUrl=queue, WaitTimeSeconds=20)["Messages"][0]
        handle = received["ReceiptHandle"]
        hidden = refusal(sqs.change_message_visibility, QueueUrl=queue, ReceiptHandle=handle, VisibilityTimeout=43201)
    finally:
        sqs.delete_queue(QueueUrl=queue)
    is_so = whole == "accepted" and "accepted" not in (more, attributes, hidden)
    return is_so, f"1 MiB: {whole}; a byte more: {more}; 11 attributes: {attributes}; 43,201 s: {hidden}"


@experiment("docs/use/order.md", "nothing while the first is hidden; then first and second, the first received twice")
def group_of_a_fifo_queue_blocks(relay: Relay) -> Found:
    """Does a FIFO queue hand out nothing of a group while one of its messages is hidden?

    On a queue of its own, send two messages of a group and one of another. Receive one message twice, make the first visible
    again, and receive all.
    """
    sqs = relay.client("sqs")
    queue = relay.temporary_queue("order", FifoQueue="true", ContentBasedDeduplication="true", VisibilityTimeout="120")

    def receive(count: int) -> list[dict]:
        got = sqs.receive_message(
            QueueUrl=queue,
            MaxNumberOfMessages=count,
            WaitTimeSeconds=1,
            MessageSystemAttributeNames=["ApproximateReceiveCount"],
        )
        return got.get("Messages", [])

    try:
        for body, group in (("a1", "a"), ("a2", "a"), ("b1", "b")):
            sqs.send_message(QueueUrl=queue, MessageBody=body, MessageGroupId=group)
        first = until("the first is received", lambda: receive(1), 30)
        beside = [m["Body"] for m in receive(10)]
        sqs.change_message_visibility(QueueUrl=queue, ReceiptHandle=first[0]["ReceiptHandle"], VisibilityTimeout=0)
        again = until("the group is free", lambda: receive(10), 30)
    finally:
        sqs.delete_queue(QueueUrl=queue)
    order = [(m["Body"], int(m["Attributes"]["ApproximateReceiveCount"])) for m in again]
    is_so = first[0]["Body"] == "a1" and beside == ["b1"] and order == [("a1", 2), ("a2", 1)]
    return is_so, f"first {first[0]['Body']}; beside it {beside}; then with receives {order}"


# ---- Deploys ----------------------------------------------------------------------------------------------------------


@experiment("docs/operate/order-on-and-off.md", "UPDATE_COMPLETE, and the second mapping Enabled")
def order_is_switched_on(relay: Relay) -> Found:
    """Does the mapping of a FIFO queue wait for the permission that its role gets in the same deploy?

    Deploy Order=conversation onto the stack.
    """
    status = relay.update(Order="conversation")
    state = until("the mapping is enabled", lambda: (s := relay.mapping("OrderedQueueUrl")["State"]) == "Enabled" and s)
    return status == "UPDATE_COMPLETE", f"{status}, mapping {state}"


@experiment("docs/use/order.md", "accepted 1, 2, 3; none attempted before the one before it was accepted")
def conversation_keeps_its_order(relay: Relay) -> Found:
    """Do the later events of a conversation wait while the first one fails?

    Send three events of a conversation, of which the first fails twice.
    """
    bodies = [relay.body("in order", "a conversation", answers=[503, 503, 200], number=1)]
    bodies += [relay.body("in order", "a conversation", number=n) for n in (2, 3)]
    ids = [relay.accept(body) for body in bodies]
    relay.until_state(ids, "DELIVERED")
    seen = until("the target has noted all", lambda: len(n := relay.target.received("in order")) >= 5 and n, 120)
    order = [(ids.index(note["event"]) + 1, note["status"]) for note in seen]
    return order == [(1, 503), (1, 503), (1, 200), (2, 200), (3, 200)], f"event and answer: {order}"


@experiment(
    "docs/use/order.md",
    "several at the same time, each in its order",
    "it runs one invocation of a FIFO queue at a time",
)
def conversations_run_beside_each_other(relay: Relay) -> Found:
    """Does Lambda hand out the conversations of a FIFO queue side by side, and none in two invocations?

    With one event in a batch, send three events of each of ten conversations to a target that takes a second.
    """
    relay.update(BatchSize=1)
    ids: dict[str, tuple[int, int]] = {}
    for number in range(3):
        bodies = [relay.body("beside", f"conversation {c}", seconds=1) for c in range(10)]
        ids |= {event: (c, number) for c, event in enumerate(relay.accept_all(bodies))}
    relay.until_state(list(ids), "DELIVERED")
    notes = until("the target has noted all", lambda: len(n := relay.target.received("beside")) >= 30 and n, 120)
    most = max(sum(1 for other in notes if other["began"] <= note["began"] < other["ended"]) for note in notes)
    relay.update(BatchSize=10)
    orders = {c: [ids[n["event"]][1] for n in notes if ids[n["event"]][0] == c] for c in range(10)}
    wrong = {c: order for c, order in orders.items() if order != [0, 1, 2]}
    return most > 1 and not wrong, f"at most {most} invocations at the same time; out of order: {wrong or 'none'}"


@experiment(
    "docs/operate/only-on-aws.md", "held back after the breaker's next run, whatever the deploy did; then DELIVERED"
)
def deploy_while_the_breaker_is_open(relay: Relay) -> Found:
    """What does a deploy do to a mapping that the breaker has disabled?

    Switch the breaker on and open it by hand, send an event, deploy another BatchSize, and look at the mapping before and
    after a run of the breaker. Close it.
    """
    relay.update(Breaker="on")
    relay.act("Breaker", {"action": "open", "why": "an experiment"})
    until("events are held back", lambda: relay.mapping()["State"] == "Disabled")
    event = relay.accept(relay.body("held back"))
    status = relay.update(BatchSize=9)
    after_deploy = relay.mapping()["State"]
    relay.act("Breaker", {"action": "run"})
    after_run = until("the mapping settles", lambda: (s := relay.mapping()["State"]) in ("Enabled", "Disabled") and s)
    delivered = relay.state(event)
    relay.act("Breaker", {"action": "close", "why": "the experiment is over"})
    relay.until_state([event], "DELIVERED")
    relay.act("Breaker", {"action": "automatic"})
    relay.update(Breaker="off", BatchSize=10)
    found = f"{status}; mapping {after_deploy} after the deploy, {after_run} after the breaker's run; event then {delivered or 'without a record'}"
    return after_run == "Disabled", found


@experiment("docs/operate/ask-about-a-conversation.md", "index ACTIVE, and the older event is found")
def index_is_filled_from_older_records(relay: Relay) -> Found:
    """Does DynamoDB fill the index of conversations from the records that are there?

    Send an event of a conversation, deploy without the index, then with it, and ask for the conversation.
    """
    event = relay.accept(relay.body("indexed", "an older conversation"))
    relay.until_state([event], "DELIVERED")
    began = time.time()
    relay.update(ConversationIndex="off")
    relay.update(ConversationIndex="on")

    def status() -> str | None:
        table = relay.client("dynamodb").describe_table(TableName=relay.output("EventsTableName"))["Table"]
        # The local AWS gives an index no status.
        found = {i["IndexName"]: i.get("IndexStatus", "ACTIVE") for i in table.get("GlobalSecondaryIndexes", [])}
        return found.get("conversations") == "ACTIVE" and "ACTIVE"

    state = until("the index is filled", status, 1800, 2)
    seconds = time.time() - began
    request = {"action": "conversation", "id": "an older conversation"}
    found = until("the event is found", lambda: event in json.dumps(relay.invoke("Look", request)))
    return found, f"{state} {seconds:.0f} s after the first of the two deploys began; the event is found"


# ---- Storage and schedules --------------------------------------------------------------------------------------------


@experiment(
    "docs/operate/erase.md", "expires_at ENABLED; 1 day of backups", "the table's TTL and backups have no effect"
)
def table_expires_and_is_backed_up(relay: Relay) -> Found:
    """Has the deploy set the TTL of the table, and the days of its backups?

    Read both.
    """
    client, table = relay.client("dynamodb"), relay.output("EventsTableName")
    ttl = client.describe_time_to_live(TableName=table)["TimeToLiveDescription"]
    backups = client.describe_continuous_backups(TableName=table)["ContinuousBackupsDescription"]
    recovery = backups["PointInTimeRecoveryDescription"]
    found = (
        ttl.get("AttributeName"),
        ttl["TimeToLiveStatus"],
        recovery["PointInTimeRecoveryStatus"],
        recovery.get("RecoveryPeriodInDays"),
    )
    return found == ("expires_at", "ENABLED", "ENABLED", 1), str(found)


@experiment(
    "docs/design/data-inventory.md",
    "rules for dead-letters/ and journal/, with both their times",
    "the lifecycle has no effect",
)
def lifecycle_is_set(relay: Relay) -> Found:
    """Does the bucket have the lifecycle of the template?

    Read its rules.
    """
    found = relay.client("s3").get_bucket_lifecycle_configuration(Bucket=relay.output("ArchiveBucketName"))
    rules = {
        rule["ID"]: (
            rule.get("Expiration", {}).get("Days"),
            rule.get("NoncurrentVersionExpiration", {}).get("NoncurrentDays"),
        )
        for rule in found["Rules"]
        if rule["Status"] == "Enabled"
    }
    is_so = (
        rules.get("Expire") == (365, 7) and rules.get("ExpireJournal") == (1, 1) and "AbortIncompleteUploads" in rules
    )
    return is_so, str(rules)


@experiment("docs/operate/archive.md", "the second is refused; after a delete it is accepted")
def object_is_written_once(relay: Relay) -> Found:
    """Does S3 refuse a second object of the same key with If-None-Match, and accept it behind a delete marker?

    Put an object twice, delete it, and put it again.
    """
    s3, bucket, key = relay.client("s3"), relay.output("ArchiveBucketName"), "on-aws/once"
    put = {"Bucket": bucket, "Key": key, "Body": b"x", "IfNoneMatch": "*"}
    codes = [refusal(s3.put_object, **put), refusal(s3.put_object, **put)]
    s3.delete_object(Bucket=bucket, Key=key)
    codes.append(refusal(s3.put_object, **put))
    s3.delete_object(Bucket=bucket, Key=key)
    return codes == [
        "accepted",
        "PreconditionFailed",
        "accepted",
    ], f"first {codes[0]}, second {codes[1]}, after a delete {codes[2]}"


@experiment("docs/operate/breaker.md", "a run of the breaker for the schedule")
def schedule_invokes_its_function(relay: Relay) -> Found:
    """Does a schedule invoke its function, with the role and the input of the template?

    Make a schedule with the target of the breaker's, for once and now: the local AWS forgets a schedule when its stack is
    deployed again. Wait for the line of metrics that each run of the breaker writes.
    """
    scheduler, name = relay.client("scheduler"), f"{relay.stack}-on-aws"
    target = scheduler.get_schedule(Name=relay.physical_id("BreakerSchedule"))["Target"]
    since = time.time()
    scheduler.create_schedule(
        Name=name,
        ScheduleExpression=time.strftime("at(%Y-%m-%dT%H:%M:%S)", time.gmtime(since + 2)),
        FlexibleTimeWindow={"Mode": "OFF"},
        Target=target,
    )
    try:
        lines = relay.log_lines(relay.lambda_log("Breaker"), since, 150, lambda line: "BreakerOpen" in line)
    finally:
        scheduler.delete_schedule(Name=name)
    return bool(lines), f"{len(lines)} run(s) within {time.time() - since:.0f} s"


# What a new account and the experiments before bring about, and an account without --email.
EXCUSED = {"account-concurrency", "alarms-quiet", "alarms-subscribed"}


@experiment(
    "docs/operate/check.md",
    "no check failed or not allowed but of quotas, subscriptions and ringing alarms; no item is left",
    "`end_to_end check::` does it on the local AWS",
)
def check_reads_a_real_account(relay: Relay) -> Found:
    """Does `cargo relay check --send` read what only AWS has (processed template, IAM documents, schedules, routes), and find
    nothing? Does its event leave nothing behind?

    Run it, and scan the table for items of synthetic events.
    """
    command = ["cargo", "relay", "check", "--stack", relay.stack, "--region", relay.region, "--send", "--json"]
    if relay.session.profile_name != "default":
        command += ["--profile", relay.session.profile_name]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
    if not done.stdout:
        raise Unmet(f"{' '.join(command)} ended with {done.returncode}")
    checks = json.loads(done.stdout)["checks"]
    bad = {c["name"]: c["evidence"] for c in checks if c["outcome"] in ("failed", "not allowed")}
    pages = (
        relay.client("dynamodb")
        .get_paginator("scan")
        .paginate(TableName=relay.output("EventsTableName"), ProjectionExpression="event_id")
    )
    keys = [item["event_id"]["S"] for page in pages for item in page["Items"]]
    left = [key for key in keys if "check-" in key]
    found = f"{len(checks)} checks; bad: {bad or 'none'}; items left: {left or 'none'}"
    return set(bad) <= EXCUSED and not left, found


# ---- CloudWatch -------------------------------------------------------------------------------------------------------


@experiment("docs/reference/metrics.md", "a JSON object of its own, with `_aws` at its top")
def metrics_are_lines_of_their_own(relay: Relay) -> Found:
    """Does a line of metrics reach the log as the function wrote it, with JSON as the log format?

    Send a webhook, and find the line with Accepted.
    """
    since = time.time() - 2
    relay.accept(relay.body("counted"))
    lines = relay.log_lines(relay.lambda_log("Ingest"), since, 120, lambda line: "Accepted" in line)
    names = [
        metric["Name"]
        for line in lines
        for group in line.get("_aws", {}).get("CloudWatchMetrics", [])
        for metric in group["Metrics"]
    ]
    return "Accepted" in names, f"{len(lines)} line(s), metrics {sorted(set(names))}"


@experiment("docs/reference/metrics.md", "Accepted counts what was sent", "it makes no metrics of log lines")
def metrics_arrive(relay: Relay) -> Found:
    """Do the lines of metrics become metrics of CloudWatch?

    Send five webhooks, and wait for the sum of Accepted.
    """
    since = time.time()
    ids = relay.accept_all([relay.body(f"counted {n}") for n in range(5)])
    relay.until_state(ids, "DELIVERED")
    accepted = relay.until_metric(f"GenesysRelay/{relay.stack}", "Accepted", {}, since, 5)
    return (accepted or 0) >= 5, f"Accepted: {accepted}"


@experiment("docs/operate/alarms.md", "a message with the name of the alarm")
def alarm_reaches_the_topic(relay: Relay) -> Found:
    """May an alarm publish to the topic, whose policy lets in alarms of this stack alone?

    Subscribe a queue to the topic, and set the state of an alarm.
    """
    sqs, sns, topic = relay.client("sqs"), relay.client("sns"), relay.output("AlarmTopicArn")
    queue = relay.temporary_queue("alarms")
    arn = relay.arn_of(queue)
    allow = {
        "Effect": "Allow",
        "Principal": {"Service": "sns.amazonaws.com"},
        "Action": "sqs:SendMessage",
        "Resource": arn,
    }
    allow["Condition"] = {"ArnEquals": {"aws:SourceArn": topic}}
    policy = json.dumps({"Version": "2012-10-17", "Statement": [allow]})
    sqs.set_queue_attributes(QueueUrl=queue, Attributes={"Policy": policy})
    subscription = sns.subscribe(TopicArn=topic, Protocol="sqs", Endpoint=arn, ReturnSubscriptionArn=True)[
        "SubscriptionArn"
    ]
    alarm = f"{relay.stack}-alarm-dead-letters"
    try:
        relay.client("cloudwatch").set_alarm_state(AlarmName=alarm, StateValue="ALARM", StateReason="an experiment")
        got = until(
            "the alarm arrives", lambda: sqs.receive_message(QueueUrl=queue, WaitTimeSeconds=5).get("Messages"), 120
        )
    finally:
        sns.unsubscribe(SubscriptionArn=subscription)
        sqs.delete_queue(QueueUrl=queue)
    return alarm in got[0]["Body"], "a message with the alarm's name" if alarm in got[0]["Body"] else got[0]["Body"][
        :200
    ]


@experiment("docs/operate/alarms.md", "subscription confirmed, and the alarm's action succeeded", "it sends no mail")
def alarm_is_mailed(relay: Relay) -> Found:
    """Can a subscription by mail be confirmed, and is an alarm sent to it?

    Wait ten minutes for the link in the mail to be followed, set the state of an alarm, and read its history.
    """
    subscriptions = relay.client("sns").list_subscriptions_by_topic(TopicArn=relay.output("AlarmTopicArn"))[
        "Subscriptions"
    ]
    if not any(s["Protocol"] == "email" for s in subscriptions):
        raise NotPossible("no address was given (--email)")
    print("      confirm the subscription: AWS has sent a mail with a link", flush=True)

    def confirmed() -> bool:
        listed = relay.client("sns").list_subscriptions_by_topic(TopicArn=relay.output("AlarmTopicArn"))[
            "Subscriptions"
        ]
        return any(s["Protocol"] == "email" and s["SubscriptionArn"].startswith("arn:") for s in listed)

    try:
        until("the subscription is confirmed", confirmed, 600, 5)
    except Unmet as error:
        raise NotPossible(str(error)) from None
    watch, alarm = relay.client("cloudwatch"), f"{relay.stack}-alarm-event-age"
    watch.set_alarm_state(AlarmName=alarm, StateValue="ALARM", StateReason="an experiment")

    def actions() -> list[str]:
        items = watch.describe_alarm_history(AlarmName=alarm, HistoryItemType="Action")["AlarmHistoryItems"]
        return [item["HistorySummary"] for item in items]

    done = until("the alarm has acted", actions, 120, 5)
    return any(
        "Successfully" in line for line in done
    ), f"confirmed; {len(done)} action(s). Look whether the mail has come"


@experiment("docs/operate/alarms.md", "each ends as Complete", "it does not know saved queries")
def saved_queries_run(relay: Relay) -> Found:
    """Does CloudWatch accept the saved queries, and do they find lines?

    Run each of them over the last hour.
    """
    logs, found = relay.client("logs"), {}
    for query in logs.describe_query_definitions(queryDefinitionNamePrefix=relay.stack)["queryDefinitions"]:
        now = int(time.time())
        started = logs.start_query(
            logGroupNames=query["logGroupNames"], startTime=now - 3600, endTime=now, queryString=query["queryString"]
        )

        def ended() -> dict | None:
            result = logs.get_query_results(queryId=started["queryId"])
            return None if result["status"] in ("Scheduled", "Running") else result

        result = until("the query ends", ended, 120, 1)
        found[query["name"]] = (result["status"], len(result["results"]))
    return bool(found) and all(status == "Complete" for status, _ in found.values()), f"status and rows: {found}"


# ---- EventBridge ------------------------------------------------------------------------------------------------------


def bus_name(relay: Relay) -> str:
    # A bus of one's own has no slash in its name; the queues' policies allow a rule of this name on any bus.
    return f"{relay.stack}-on-aws"


def remove_bus(relay: Relay) -> None:
    events, bus, rule = relay.client("events"), bus_name(relay), f"{relay.stack}-genesys"
    for call, arguments in (
        (events.remove_targets, {"EventBusName": bus, "Rule": rule, "Ids": ["queue"]}),
        (events.delete_rule, {"EventBusName": bus, "Name": rule}),
        (events.delete_event_bus, {"Name": bus}),
    ):
        if refusal(call, **arguments) not in ("accepted", "ResourceNotFoundException"):
            call(**arguments)


def publish(relay: Relay, name: str, queue_url: str, **parameters: object) -> None:
    """Publishes an event on a bus with a rule that has the name and the form of the template's."""
    events, bus, rule = relay.client("events"), bus_name(relay), f"{relay.stack}-genesys"
    events.create_event_bus(Name=bus)
    events.put_rule(Name=rule, EventBusName=bus, EventPattern=json.dumps({"source": ["on-aws"]}))
    target = {
        "Id": "queue",
        "Arn": relay.arn_of(queue_url),
        "DeadLetterConfig": {"Arn": relay.arn_of(relay.output("DeadLetterQueueUrl"))},
        "RetryPolicy": {"MaximumEventAgeInSeconds": 60, "MaximumRetryAttempts": 1},
        **parameters,
    }
    failed = events.put_targets(Rule=rule, EventBusName=bus, Targets=[target])["FailedEntries"]
    if failed:
        raise Unmet(f"EventBridge refused the target: {failed}")

    def sent() -> bool:
        entry = {
            "EventBusName": bus,
            "Source": "on-aws",
            "DetailType": "on-aws",
            "Detail": json.dumps({"onAws": {"name": name}}),
        }
        events.put_events(Entries=[entry])
        # A new rule matches nothing for some seconds, so that it is sent again.
        try:
            return until(
                "", lambda: relay.target.received(name) or sum(relay.depth(relay.output("DeadLetterQueueUrl"))), 20
            )
        except Unmet:
            return False

    until(f"the event {name} comes out", sent, 180)


@experiment("docs/use/eventbridge.md", "the event reaches the target")
def rule_sends_with_a_group(relay: Relay) -> Found:
    """May a rule name a message group for a standard queue, and do the policies let it in?

    Make a bus and a rule of the name that the policies allow, and publish an event.
    """
    try:
        publish(relay, "by a rule", relay.output("QueueUrl"), SqsParameters={"MessageGroupId": "eventbridge"})
        received = until("the event is delivered", lambda: relay.target.received("by a rule"))
    finally:
        remove_bus(relay)
    return True, f"delivered, {len(received)} request(s)"


@experiment(
    "docs/use/eventbridge.md",
    "in the dead-letter queue, with EventBridge's reason in the attributes that the relay reads",
    "it does not use the dead-letter queue of a rule",
)
def rule_uses_its_dead_letter_queue(relay: Relay) -> Found:
    """What does EventBridge put into a rule's dead-letter queue when the target refuses the event?

    Let the rule lead to a queue without a policy, publish, and receive the dead letter.
    """
    sqs, dead, closed = relay.client("sqs"), relay.output("DeadLetterQueueUrl"), relay.temporary_queue("closed")
    try:
        publish(relay, "refused", closed)
        got = until(
            "the dead letter is received",
            lambda: sqs.receive_message(
                QueueUrl=dead, VisibilityTimeout=0, WaitTimeSeconds=5, MessageAttributeNames=["All"]
            ).get("Messages"),
        )
        listed = until(
            "it is listed",
            lambda: relay.act("Replay", {"action": "reconcile"}) and relay.invoke("Look", {"action": "list"})["items"],
        )
    finally:
        remove_bus(relay)
        sqs.delete_queue(QueueUrl=closed)
    names = sorted(got[0].get("MessageAttributes", {}))
    discard(relay, [letter["eventId"] for letter in listed])
    return "ERROR_CODE" in names and len(names) <= 6, f"attributes {names}; listed as {listed[0].get('reason')}"


# ---- Real Lambda ------------------------------------------------------------------------------------------------------


@experiment("docs/use/targets/aws-iam.md", "DELIVERED", "it checks no signature of a function URL")
def target_that_asks_for_iam(relay: Relay) -> Found:
    """May the processor's role call a function URL by `lambda:InvokeFunction` under `lambda:InvokedViaFunctionUrl`?

    Deploy with the function URL of the target and TargetSigV4Service, and send an event. Deploy the former target.
    """
    target = relay.target
    relay.update(TargetUrl=target.function_url, TargetSigV4Service="lambda", TargetSigV4Arn=target.function_arn)
    try:
        event = relay.accept(relay.body("signed for IAM"))
        relay.until_state([event], "DELIVERED", 120)
    finally:
        relay.update(TargetUrl=target.url, TargetSigV4Service="", TargetSigV4Arn="")
    return True, "delivered"


def cold_starts(relay: Relay, count: int = 10) -> str:
    """Starts new sandboxes of ingest, and gives what Lambda reports."""
    variables = relay.variables("Ingest")
    since, lines = time.time(), []
    report = {"LogFormat": "JSON", "ApplicationLogLevel": "TRACE", "SystemLogLevel": "INFO"}
    try:
        for number in range(count):
            relay.configure(
                "Ingest", LoggingConfig=report, Environment={"Variables": {**variables, "ON_AWS": str(number)}}
            )
            # The second is warm.
            for _ in range(2):
                relay.accept(relay.body("cold"))
    finally:
        former = {**report, "SystemLogLevel": "WARN"}
        relay.configure("Ingest", LoggingConfig=former, Environment={"Variables": variables})

    def reports() -> bool:
        lines[:] = relay.log_lines(
            relay.lambda_log("Ingest"), since, 30, lambda line: line.get("type") == "platform.report"
        )
        return len([line for line in lines if "initDurationMs" in line["record"]["metrics"]]) >= count

    until("Lambda has reported", reports, 300, 5)
    metrics = [line["record"]["metrics"] for line in lines]
    cold = [m for m in metrics if "initDurationMs" in m]

    def spread(values: list[float]) -> str:
        ordered = sorted(values)
        return f"{ordered[0]:.0f}/{ordered[len(ordered) // 2]:.0f}/{ordered[-1]:.0f} ms"

    init, first = spread([m["initDurationMs"] for m in cold]), spread([m["durationMs"] for m in cold])
    warm = spread([m["durationMs"] for m in metrics if m not in cold])
    return f"INIT {init}, first invocation {first}, warm {warm}, {max(m['maxMemoryUsedMB'] for m in metrics)} MB ({len(cold)} cold starts; least/median/most)"


@experiment("docs/design/figures.md", "INIT below a second on both architectures", "it is not Lambda's hardware")
def cold_start_of_both_architectures(relay: Relay) -> Found:
    """How long does a cold start of ingest take on real Lambda, on arm64 and x86_64?

    Change a variable of ingest ten times and send two webhooks after each. Build and deploy the other architecture, and
    repeat.
    """
    first = relay.architecture
    found = {first: cold_starts(relay)}
    other = {"arm64": "x86_64", "x86_64": "arm64"}[first]
    relay.deploy(other)
    found[other] = cold_starts(relay)
    return True, "; ".join(f"{name}: {figures}" for name, figures in found.items())
