"""Serves the local AWS: ministack, with what the relay needs and that release lacks.

1. SQS's StartMessageMoveTask, ListMessageMoveTasks and CancelMessageMoveTask, for standard queues.
   Messages and codes of the errors are the ones AWS answers with.
2. The server ends, and every function it runs with it, as soon as its standard input closes. So it
   cannot outlive the process that started it, however that one ends. It must lead a process group.
3. A warm function answers in a few milliseconds instead of some ninety, and its log has each line of it.
4. The numbers of an event source mapping may come from parameters of the template.
5. A policy that allows an action of SQS allows its batch variant, which is no action of its own, one event source mapping is
   read and changed by actions of their own, and the targets of a rule are listed by the ARN of the rule.
6. A schedule invokes a function only if the policy of its role allows that, and at most a second late.
7. Conditions on `dynamodb:LeadingKeys` are judged by the keys that a request names.
8. Only holders of a key pair have access: see guard.py. The first line of the standard input is the developer's, as JSON.
9. An update of a nested stack keeps the attributes of the resources that it does not change.
10. Every request counts as one over TLS, which it does not speak: the policies of queues and bucket refuse all others.

Everything here reaches into the internals of one release, hence the check of its exact version.
"""

import asyncio
import base64
import binascii
import contextvars
import importlib.metadata
import json
import os
import select
import signal
import socketserver
import sys
import threading
import time
import uuid

TESTED_RELEASE = "1.5.33"
RELEASE = importlib.metadata.version("ministack")
if RELEASE != TESTED_RELEASE:
    sys.exit(f"This file extends ministack {TESTED_RELEASE}, but {RELEASE} is installed.")

# Nothing is written into the folder of this file.
sys.dont_write_bytecode = True
import guard  # noqa: E402
from ministack import app as gateway  # noqa: E402
from ministack.app import main  # noqa: E402
from ministack.core import iam_actions, iam_evaluator, lambda_runtime  # noqa: E402
from ministack.core.concurrency import esm_wake  # noqa: E402
from ministack.services import eventbridge, scheduler, sqs  # noqa: E402
from ministack.services.cloudformation import _stacks, provisioners  # noqa: E402

RUNNING = "RUNNING"
# Ten at a time without a rate: SQS decides by itself how fast it moves, and this is fast enough here.
UNLIMITED_BATCH = 10
LISTED_TASKS_MAX = 10
SECONDS_BETWEEN_SCHEDULES = 1
RATE_MAX = 500
# The events table's.
PARTITION_KEY = "event_id"
reading_output = threading.Lock()


class MoveTask:
    """One move of the visible messages of a dead-letter queue, oldest first."""

    by_id = {}

    def __init__(self, source, destination, rate):
        self.id = str(uuid.uuid4())
        self.source = source
        self.source_arn = arn_of(source)
        self.destination_arn = destination and arn_of(destination)
        self.rate = rate
        self.status = RUNNING
        self.failure = None
        self.moved = 0
        self.to_move = len(self.visible())
        self.started = int(time.time() * 1000)
        self.by_id[self.id] = self
        self.loop_task = asyncio.create_task(self.run())

    def visible(self):
        now = time.time()
        return [m for m in self.source["messages"] if m["visible_at"] <= now]

    async def run(self):
        while self.status == RUNNING:
            with sqs._queues_lock:
                batch = self.visible()[: 1 if self.rate else UNLIMITED_BATCH]
                if not batch:
                    self.status = "COMPLETED"
                for message in batch:
                    self.move(message)
            await asyncio.sleep(1 / self.rate if self.rate else 0)

    def move(self, message):
        arn = self.destination_arn or message["sys"].get("DeadLetterQueueSourceArn")
        destination = arn and sqs._queue_by_arn(arn)
        if self.status != RUNNING:
            return
        if not destination:
            self.status = "FAILED"
            self.failure = "AWS.SimpleQueueService.NonExistentQueue" if arn else "CouldNotDetermineMessageSource"
            return
        now = time.time()
        system = {k: v for k, v in message["sys"].items() if k != "DeadLetterQueueSourceArn"}
        system["SentTimestamp"] = str(int(now * 1000))
        as_new = {"id": str(uuid.uuid4()), "sys": system, "sent_at": now, "visible_at": now, "receive_count": 0,
                  "first_receive_at": None, "receipt_handle": None}
        self.source["messages"].remove(message)
        destination["messages"].append(message | as_new)
        self.moved += 1
        esm_wake.set()

    def handle(self):
        return base64.b64encode(json.dumps({"taskId": self.id, "sourceArn": self.source_arn}).encode()).decode()

    def describe(self):
        entry = {
            "TaskHandle": self.handle() if self.status == RUNNING else None,
            "Status": self.status,
            "SourceArn": self.source_arn,
            "DestinationArn": self.destination_arn,
            "MaxNumberOfMessagesPerSecond": self.rate,
            "ApproximateNumberOfMessagesMoved": self.moved,
            "ApproximateNumberOfMessagesToMove": self.to_move,
            "FailureReason": self.failure,
            "StartedTimestamp": self.started,
        }
        return {name: value for name, value in entry.items() if value is not None}


def arn_of(queue):
    return queue["attributes"]["QueueArn"]


def queue_named_by(request, parameter):
    arn = request.get(parameter)
    if not arn and parameter == "SourceArn":
        raise sqs._Err("MissingParameter", "The request must contain the parameter SourceArn.")
    queue = arn and sqs._queue_by_arn(arn)
    if arn and not queue:
        raise not_found(parameter)
    return queue


def not_found(parameter):
    return sqs._Err("ResourceNotFoundException",
                    f"The resource that you specified for the {parameter} parameter doesn't exist.", 404)


def invalid(message):
    return sqs._Err("InvalidParameterValue", message)


def is_dead_letter_queue(arn):
    policies = (queue["attributes"].get("RedrivePolicy") for queue in sqs._queues.values())
    return any(json.loads(policy).get("deadLetterTargetArn") == arn for policy in policies if policy)


def tasks_of(arn):
    """Newest first."""
    return [task for task in reversed(MoveTask.by_id.values()) if task.source_arn == arn]


def number_within(request, parameter, maximum):
    number = request.get(parameter)
    if number is not None and not 1 <= number <= maximum:
        raise invalid(f"Value {number} for parameter {parameter} is invalid. Reason: Must be between 1 and {maximum}.")
    return number


async def start_message_move_task(request, _queue_url):
    source = queue_named_by(request, "SourceArn")
    if not is_dead_letter_queue(arn_of(source)):
        raise invalid("Source queue must be configured as a Dead Letter Queue.")
    destination = queue_named_by(request, "DestinationArn")
    if source["is_fifo"] or (destination and destination["is_fifo"]):
        raise sqs._Err("UnsupportedOperation", "Here only standard queues can be moved.")
    rate = number_within(request, "MaxNumberOfMessagesPerSecond", RATE_MAX)
    if any(task.status == RUNNING for task in tasks_of(arn_of(source))):
        raise invalid("There is already a task running. "
                      "Only one active task is allowed for a source queue arn at a given time.")
    return {"TaskHandle": MoveTask(source, destination, rate).handle()}


def list_message_move_tasks(request, _queue_url):
    source = queue_named_by(request, "SourceArn")
    limit = number_within(request, "MaxResults", LISTED_TASKS_MAX) or 1
    return {"Results": [task.describe() for task in tasks_of(arn_of(source))[:limit]]}


def decode_handle(handle):
    try:
        content = json.loads(base64.b64decode(handle or "", validate=True))
        return content["taskId"], content["sourceArn"]
    except (binascii.Error, UnicodeDecodeError, ValueError, KeyError, TypeError) as error:
        raise invalid("Value for parameter TaskHandle is invalid.") from error


def cancel_message_move_task(request, _queue_url):
    task_id, source_arn = decode_handle(request.get("TaskHandle"))
    if not sqs._queue_by_arn(source_arn):
        raise not_found("SourceArn")
    task = MoveTask.by_id.get(task_id)
    if not task:
        raise sqs._Err("ResourceNotFoundException", "Task does not exist.", 404)
    if task.status != RUNNING:
        raise sqs._Err("UnsupportedOperation", "Only active tasks can be cancelled.")
    task.status = "CANCELLED"
    return {"ApproximateNumberOfMessagesMoved": task.moved}


def add_move_tasks():
    sqs._HANDLERS.update({
        "StartMessageMoveTask": start_message_move_task,
        "ListMessageMoveTasks": list_message_move_tasks,
        "CancelMessageMoveTask": cancel_message_move_task,
    })
    resource_of_others = iam_actions.extract_resource_arn

    def extract_resource_arn(service, method, path, headers, body, *rest):
        """The queue that IAM judges a move task by."""
        if service == "sqs" and headers.get("x-amz-target", "").endswith(("MessageMoveTask", "MessageMoveTasks")):
            request = json.loads(body)
            try:
                return request.get("SourceArn") or decode_handle(request.get("TaskHandle"))[1]
            except sqs._Err:
                return "*"
        return resource_of_others(service, method, path, headers, body, *rest)

    iam_actions.extract_resource_arn = extract_resource_arn


def judge_actions_by_their_names():
    action_of_others = iam_actions.extract_iam_action
    of_one_mapping = {"GET": "lambda:GetEventSourceMapping", "PUT": "lambda:UpdateEventSourceMapping"}

    def extract_iam_action(service, method, path, *rest):
        action = action_of_others(service, method, path, *rest)
        if service == "lambda" and "/event-source-mappings/" in path.rstrip("/"):
            return of_one_mapping.get(method, action)
        return action.removesuffix("Batch") if service == "sqs" and action else action

    iam_actions.extract_iam_action = extract_iam_action


def judge_targets_by_their_rule():
    resource_of_others = iam_actions.extract_resource_arn

    def extract_resource_arn(service, method, path, headers, body, *rest):
        if service == "events" and headers.get("x-amz-target", "").endswith("ListTargetsByRule"):
            request = json.loads(body)
            body = json.dumps(request | {"Name": request.get("Rule")}).encode()
        return resource_of_others(service, method, path, headers, body, *rest)

    iam_actions.extract_resource_arn = extract_resource_arn


def judge_items_by_their_keys():
    context_of_others = iam_actions.dynamodb_service_context

    def dynamodb_service_context(body):
        request = json.loads(body or b"{}")
        items = [request.get("Key"), request.get("Item")]
        for table in request.get("RequestItems", {}).values():
            items.extend(table.get("Keys", []) if isinstance(table, dict) else [])
        keys = [item[PARTITION_KEY]["S"] for item in items if item and PARTITION_KEY in item]
        return context_of_others(body) | {"dynamodb:leadingkeys": keys}

    iam_actions.dynamodb_service_context = dynamodb_service_context


def judge_schedules_by_their_roles():
    invoke_unjudged = eventbridge._invoke_target

    def invoke_target(target, event, rule, view=None):
        # A rule of EventBridge comes this way too. It has no role: the function's own policy decides.
        if rule in scheduler._schedules.values() and not may_invoke(target["RoleArn"], target["Arn"]):
            print(f"The schedule {rule['Arn']} may not invoke {target['Arn']}", flush=True)
            return
        invoke_unjudged(target, event, rule, view)

    eventbridge._invoke_target = invoke_target
    scheduler._SCHEDULE_TICK_INTERVAL = SECONDS_BETWEEN_SCHEDULES


def may_invoke(role_arn, function_arn):
    account, region = role_arn.split(":")[4], function_arn.split(":")[3]
    policies = iam_evaluator._gather_role_policies(role_arn.split("/")[-1], account)
    request = iam_evaluator.EvalContext(role_arn, "AssumedRole", account, "lambda:InvokeFunction", function_arn, region)
    return iam_evaluator.evaluate(request, policies).decision == "Allow"


def answer_without_delay():
    """Sends small answers at once, and waits for no log line: what a function wrote before its answer is in its pipe."""
    socketserver.StreamRequestHandler.disable_nagle_algorithm = True
    worker = lambda_runtime.ProvidedWorker
    worker._pump_output = pump_output
    worker._drain_stderr_bounded = drain_output


def pump_output(_worker, stream, lines):
    """Reads what a function writes for as long as it lives, so that its pipe never is full."""
    pipe = readable(stream)
    pipe.poll()
    while read_output(stream, lines):
        pipe.poll()
    with reading_output:
        stream.close()


def drain_output(worker, first_line_wait=0):
    """Returns the lines that a function has written, also where the thread of `pump_output` is late: so a line is in the
    log of the invocation that wrote it."""
    process = worker._proc
    if process:
        read_output(process.stdout, worker._stderr_queue)
    return worker._drain_stderr()


def read_output(stream, lines):
    """Puts the lines that a pipe holds into their queue, and returns whether more may come."""
    with reading_output:
        while not stream.closed and readable(stream).poll(0):
            part = os.read(stream.fileno(), 65536)
            *whole, lines.unfinished = (getattr(lines, "unfinished", b"") + part).split(b"\n")
            if not part and lines.unfinished:
                whole, lines.unfinished = [lines.unfinished], b""
            # The bound of the queue is for functions that write without end.
            lines.queue.extend(line.decode(errors="replace") for line in whole)
            if not part:
                return False
        return not stream.closed


def readable(stream):
    pipe = select.poll()
    pipe.register(stream, select.POLLIN)
    return pipe


def take_numbers_from_parameters():
    """Parameters are text for CloudFormation here, and the poller fails to compare text with a number."""
    handlers = provisioners._RESOURCE_HANDLERS["AWS::Lambda::EventSourceMapping"]

    def with_numbers(properties):
        scaling = {name: int(value) for name, value in properties.get("ScalingConfig", {}).items()}
        return properties | {"ScalingConfig": scaling, "BatchSize": int(properties["BatchSize"])}

    def create(logical_id, properties, stack_name, create_as_it_was=handlers["create"]):
        return create_as_it_was(logical_id, with_numbers(properties), stack_name)

    def update(physical_id, before, after, stack_name, update_as_it_was=handlers["update"]):
        return update_as_it_was(physical_id, before, with_numbers(after), stack_name)

    handlers.update(create=create, update=update)


def keep_attributes_in_nested_stacks():
    """Without this, `Fn::GetAtt` of an unchanged resource fails there: the update does not pass its attributes on."""
    update_as_it_was = provisioners._update_resource

    def update(resource_type, physical_id, before, after, stack_name, logical_id=None, attributes=None):
        if attributes is None:
            resources = _stacks.get(stack_name, {}).get("_resources", {})
            attributes = resources.get(logical_id, {}).get("Attributes")
        return update_as_it_was(resource_type, physical_id, before, after, stack_name, logical_id, attributes)

    provisioners._update_resource = update


def count_requests_as_encrypted():
    address, _ = iam_evaluator._request_origin.get()
    iam_evaluator._request_origin = contextvars.ContextVar("request_origin", default=(address, True))
    gateway.pin_request_origin = lambda address, _is_encrypted: iam_evaluator._request_origin.set((address, True))


def end_with_standard_input():
    """Takes the whole process group along: functions in flight would outlive the server alone."""
    if os.getpgrp() != os.getpid():
        sys.exit("Start this file as the leader of a process group: it ends the group when its input closes.")

    def watch():
        sys.stdin.buffer.read()
        os.killpg(os.getpgrp(), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()


if __name__ == "__main__":
    guard.install(**json.loads(sys.stdin.buffer.readline()))
    end_with_standard_input()
    add_move_tasks()
    judge_actions_by_their_names()
    judge_targets_by_their_rule()
    judge_items_by_their_keys()
    judge_schedules_by_their_roles()
    answer_without_delay()
    take_numbers_from_parameters()
    keep_attributes_in_nested_stacks()
    count_requests_as_encrypted()
    main()
