"""A deployed relay, on AWS or on the local AWS, as the experiments use it."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import secrets
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Callable, TypeVar

import boto3
import urllib3
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.exceptions import ClientError

T = TypeVar("T")

CAPABILITIES = ["CAPABILITY_IAM", "CAPABILITY_AUTO_EXPAND"]


class Unmet(Exception):
    """A condition that did not come true in time."""


class NotPossible(Exception):
    """An experiment that this account or these options do not allow, with the reason."""


def until(what: str, condition: Callable[[], T], seconds: float = 180, pause: float = 0.5) -> T:
    """Waits for a condition, and gives its first true value."""
    deadline = time.monotonic() + seconds
    while True:
        found = condition()
        if found:
            return found
        if time.monotonic() > deadline:
            raise Unmet(f"{what}: not within {seconds:.0f} s; last seen: {found!r}")
        time.sleep(pause)


def code_of(error: ClientError) -> str:
    return error.response["Error"]["Code"]


def remove_role(iam: Any, name: str) -> None:
    """Removes a role with its policies, if it is there."""
    try:
        attached = iam.list_attached_role_policies(RoleName=name)["AttachedPolicies"]
    except iam.exceptions.NoSuchEntityException:
        return
    for policy in attached:
        iam.detach_role_policy(RoleName=name, PolicyArn=policy["PolicyArn"])
    iam.delete_role(RoleName=name)


class Relay:
    """The stack, its functions, queues and table, and the target that it delivers to."""

    def __init__(self, session: boto3.Session, stack: str, target: Any, is_local: bool) -> None:
        self.session, self.stack, self.target, self.is_local = session, stack, target, is_local
        self.region = session.region_name
        # On AWS: what is deployed, and how another architecture is.
        self.architecture = ""
        self.deploy: Callable[[str], None]
        self.signature_secret, self.shared_secret = secrets.token_hex(16), secrets.token_hex(16)
        self.http = urllib3.PoolManager(maxsize=32, retries=False, timeout=urllib3.Timeout(total=60))
        self._clients: dict[str, Any] = {}
        self._outputs: dict[str, str] = {}

    def client(self, service: str) -> Any:
        """One client for each service."""
        if service not in self._clients:
            config = Config(retries={"mode": "standard", "total_max_attempts": 5}, read_timeout=910)
            self._clients[service] = self.session.client(service, config=config)
        return self._clients[service]

    # ---- the stack ----------------------------------------------------------------------------

    def describe(self) -> dict[str, Any]:
        return self.client("cloudformation").describe_stacks(StackName=self.stack)["Stacks"][0]

    def read_outputs(self) -> None:
        self._outputs = {o["OutputKey"]: o["OutputValue"] for o in self.describe().get("Outputs", [])}

    def output(self, name: str) -> str:
        if name not in self._outputs:
            raise KeyError(f"the stack {self.stack} has no output {name}")
        return self._outputs[name]

    def has_output(self, name: str) -> bool:
        return name in self._outputs

    def physical_id(self, logical_id: str) -> str:
        found = self.client("cloudformation").describe_stack_resource(
            StackName=self.stack, LogicalResourceId=logical_id
        )
        return found["StackResourceDetail"]["PhysicalResourceId"]

    def update(self, **changes: object) -> str:
        """Deploys the same template with some parameters changed, and waits. Gives the status."""
        now = {p["ParameterKey"]: p.get("ParameterValue", "") for p in self.describe()["Parameters"]}
        changed = {name: str(value) for name, value in changes.items() if now.get(name) != str(value)}
        if not changed:
            return self.describe()["StackStatus"]
        parameters = [
            {"ParameterKey": name, "ParameterValue": changed[name]}
            if name in changed
            else {"ParameterKey": name, "UsePreviousValue": True}
            for name in sorted(now.keys() | changed.keys())
        ]
        self.client("cloudformation").update_stack(
            StackName=self.stack,
            UsePreviousTemplate=True,
            Parameters=parameters,
            Capabilities=CAPABILITIES,
        )
        return self.until_settled()

    def until_settled(self) -> str:
        """Waits until no deploy is under way, and gives the status."""

        def settled() -> str | None:
            status = self.describe()["StackStatus"]
            return None if status.endswith("_IN_PROGRESS") else status

        status = until("the deploy ends", settled, 1800, 0.2 if self.is_local else 5)
        if status not in ("CREATE_COMPLETE", "UPDATE_COMPLETE"):
            raise Unmet(f"the deploy ended as {status}: {self.failures()}")
        self.read_outputs()
        return status

    def failures(self) -> str:
        events = self.client("cloudformation").describe_stack_events(StackName=self.stack)
        return "; ".join(
            f"{e['LogicalResourceId']}: {e['ResourceStatusReason']}"
            for e in events["StackEvents"]
            if e["ResourceStatus"].endswith("_FAILED") and e.get("ResourceStatusReason")
        )

    def put_secret(self) -> None:
        """Sets the secrets of the senders, and waits until ingest knows them."""
        manager, arn = self.client("secretsmanager"), self.output("SecretArn")
        secret = json.loads(manager.get_secret_value(SecretId=arn)["SecretString"])
        secret["openMessagingSecrets"] = [self.signature_secret]
        secret["webhookSecrets"] = [self.shared_secret]
        manager.put_secret_value(SecretId=arn, SecretString=json.dumps(secret))
        probe = self.body("secret")
        until("ingest knows the secret", lambda: self.post(probe)[0] == 200)

    # ---- functions ----------------------------------------------------------------------------

    def function(self, name: str) -> str:
        return self.output(f"{name}FunctionName")

    def invoke(self, function: str, request: dict[str, Any]) -> dict[str, Any]:
        """Invokes a function. Its error is an answer like others: `errorType`, `errorMessage`."""
        answer = self.client("lambda").invoke(
            FunctionName=self.function(function), Payload=json.dumps(request).encode()
        )
        return json.loads(answer["Payload"].read())

    def until_free(self, function: str, request: dict[str, Any]) -> dict[str, Any]:
        """Invokes a function until no other run is in the way."""
        busy = ("Busy", "Moving")

        def run() -> dict[str, Any] | None:
            answer = self.invoke(function, request)
            return None if answer.get("errorType") in busy else answer

        return until("no other run is in progress", run, 300, 1)

    def act(self, function: str, request: dict[str, Any]) -> dict[str, Any]:
        """The same, and an error of the function is one here."""
        answer = self.until_free(function, request)
        if "errorType" in answer:
            raise Unmet(f"{function} failed: {answer['errorType']}: {answer['errorMessage']}")
        return answer

    def configure(self, function: str, **changes: Any) -> None:
        """Changes the configuration of a function past CloudFormation, and waits."""
        client, name = self.client("lambda"), self.function(function)
        client.update_function_configuration(FunctionName=name, **changes)
        client.get_waiter("function_updated_v2").wait(FunctionName=name, WaiterConfig={"Delay": 1, "MaxAttempts": 120})

    def variables(self, function: str) -> dict[str, str]:
        found = self.client("lambda").get_function_configuration(FunctionName=self.function(function))
        return dict(found["Environment"]["Variables"])

    def stop(self, function: str) -> None:
        self.client("lambda").put_function_concurrency(
            FunctionName=self.function(function), ReservedConcurrentExecutions=0
        )

    def start(self, function: str) -> None:
        self.client("lambda").delete_function_concurrency(FunctionName=self.function(function))

    def mapping(self, queue: str = "QueueUrl") -> dict[str, Any]:
        """The event source mapping of a queue."""
        mappings = self.client("lambda").list_event_source_mappings(
            FunctionName=self.function("Processor"), EventSourceArn=self.arn_of(self.output(queue))
        )
        return mappings["EventSourceMappings"][0]

    def enable(self, is_enabled: bool) -> None:
        """Lets the mapping of the events queue deliver, or not, and waits for it."""
        self.client("lambda").update_event_source_mapping(UUID=self.mapping()["UUID"], Enabled=is_enabled)
        state = "Enabled" if is_enabled else "Disabled"
        until(f"the mapping is {state}", lambda: self.mapping()["State"] == state)

    # ---- webhooks -----------------------------------------------------------------------------

    def api_url(self, path: str) -> str:
        api = self.output("DeadLetterApiUrl").removesuffix("/dlq")
        if self.is_local:
            endpoint = self.client("lambda").meta.endpoint_url
            api = f"{endpoint}/_aws/execute-api/{api.split('//')[1].split('.')[0]}/%24default"
        return api + path

    def body(self, name: str, conversation: str | None = None, **orders: Any) -> bytes:
        """A body that tells the target how to answer: see `target/app.py`."""
        content: dict[str, Any] = {"onAws": {"name": name, **orders}, "id": str(uuid.uuid4())}
        if conversation:
            content["conversationId"] = conversation
        return json.dumps(content).encode()

    def post(self, body: bytes, headers: dict[str, str] | None = None) -> tuple[int, Any]:
        """Sends a signed webhook once."""
        digest = hmac.new(self.signature_secret.encode(), body, hashlib.sha256).digest()
        proof = {"X-Hub-Signature-256": "sha256=" + base64.b64encode(digest).decode()}
        return self.call("POST", "/webhook/genesys", body, proof if headers is None else headers)

    def call(
        self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> tuple[int, Any]:
        headers = {"content-type": "application/json", **(headers or {})}
        answer = self.http.request(method, self.api_url(path), body=body, headers=headers)
        try:
            return answer.status, json.loads(answer.data)
        except ValueError:
            return answer.status, answer.data.decode(errors="replace")

    def call_signed(self, method: str, path: str) -> tuple[int, Any]:
        """Calls the HTTP API as the one who runs this, signed for IAM."""
        request = AWSRequest(method, self.api_url(path))
        credentials = self.session.get_credentials().get_frozen_credentials()
        SigV4Auth(credentials, "execute-api", self.region).add_auth(request)
        return self.call(method, path, headers=dict(request.headers.items()))

    def accept(self, body: bytes) -> str:
        """Sends a webhook until it is accepted, as Genesys Cloud does. Gives the event's id."""

        def accepted() -> str | None:
            status, answer = self.post(body)
            if status != 200 and status < 500 and status != 429:
                raise Unmet(f"ingest refused a webhook: {status} {answer}")
            return answer["eventId"] if status == 200 else None

        return until("the webhook is accepted", accepted)

    def accept_all(self, bodies: list[bytes]) -> list[str]:
        """Sends webhooks at the same time. On this machine, four at a time."""
        with ThreadPoolExecutor(4 if self.is_local else len(bodies)) as pool:
            return list(pool.map(self.accept, bodies))

    # ---- events -------------------------------------------------------------------------------

    def show(self, event_id: str) -> dict[str, Any] | None:
        """The record of an event, or none."""
        answer = self.invoke("Look", {"action": "show", "eventId": event_id})
        return None if "errorType" in answer else answer

    def state(self, event_id: str) -> str | None:
        record = self.show(event_id)
        return record and record["state"]

    def until_state(self, event_ids: list[str], state: str, seconds: float = 300) -> None:
        waiting = list(event_ids)

        def all_there() -> bool:
            waiting[:] = [i for i in waiting if self.state(i) != state]
            return not waiting

        try:
            until("", all_there, seconds)
        except Unmet:
            states = {i: self.state(i) for i in waiting}
            raise Unmet(f"not {state} within {seconds:.0f} s: {states}") from None

    # ---- queues -------------------------------------------------------------------------------

    def arn_of(self, queue_url: str) -> str:
        return self.attributes(queue_url)["QueueArn"]

    def attributes(self, queue_url: str) -> dict[str, str]:
        sqs = self.client("sqs")
        return sqs.get_queue_attributes(QueueUrl=queue_url, AttributeNames=["All"])["Attributes"]

    def depth(self, queue_url: str) -> tuple[int, int]:
        """Messages that can be received, and those that are hidden."""
        found = self.attributes(queue_url)
        names = ("ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible")
        return int(found[names[0]]), int(found[names[1]])

    def temporary_queue(self, name: str, **attributes: str) -> str:
        """A queue of an experiment, with the time in its name, since SQS does not give a name again for
        a minute. The clean-up finds it by its beginning."""
        suffix = ".fifo" if "FifoQueue" in attributes else ""
        full = f"{self.stack}-on-aws-{name}-{int(time.time()) % 10**6}{suffix}"
        return self.client("sqs").create_queue(QueueName=full, Attributes=attributes)["QueueUrl"]

    # ---- logs and metrics ---------------------------------------------------------------------

    def log_lines(self, group: str, since: float, seconds: float, wanted: Callable[[dict], bool]) -> list[dict]:
        """JSON lines of a log group that are wanted, as soon as there is one; none after a while."""
        found: list[dict] = []

        def read() -> bool:
            pages = self.client("logs").get_paginator("filter_log_events")
            for page in pages.paginate(logGroupName=group, startTime=int(since * 1000)):
                for event in page["events"]:
                    try:
                        line = json.loads(event["message"])
                    except ValueError:
                        continue
                    if isinstance(line, dict) and wanted(line):
                        found.append(line)
            return bool(found)

        try:
            until("", read, seconds, 1)
        except Unmet:
            pass
        return found

    def lambda_log(self, function: str) -> str:
        return f"/aws/lambda/{self.function(function)}"

    def metric(self, namespace: str, name: str, dimensions: dict[str, str], since: float) -> float | None:
        """Sum of a metric since a time; none where there is no data."""
        answer = self.client("cloudwatch").get_metric_statistics(
            Namespace=namespace,
            MetricName=name,
            Dimensions=[{"Name": k, "Value": v} for k, v in dimensions.items()],
            StartTime=since - 60,
            EndTime=time.time() + 60,
            Period=60,
            Statistics=["Sum"],
        )
        points = answer["Datapoints"]
        return sum(p["Sum"] for p in points) if points else None

    def until_metric(
        self, namespace: str, name: str, dimensions: dict[str, str], since: float, at_least: float
    ) -> float | None:
        """Waits up to ten minutes for a metric, and gives what it then has."""
        try:
            until("", lambda: (self.metric(namespace, name, dimensions, since) or 0) >= at_least, 600, 10)
        except Unmet:
            pass
        return self.metric(namespace, name, dimensions, since)
