"""Deploys the relay into a throw-away account, runs the experiments, writes a report, and removes everything.

docs/develop/on-aws.md says how to run it. With --local it runs on the local AWS to which AWS_ENDPOINT_URL leads.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import string
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Callable

import boto3
from botocore.exceptions import BotoCoreError, ClientError

import experiments
from relay import NotPossible, Relay, Unmet, code_of, remove_role, until
from target.app import LocalTarget

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent

# Short waits and short lives. The breaker is off but where it is asked about: a target that fails on purpose would open it.
PARAMETERS = {
    "BackoffBaseSeconds": "1",
    "BackoffCapSeconds": "1",
    "BackupDays": "1",
    "Breaker": "off",
    "JournalDays": "1",
    "LogRetentionDays": "1",
    "MaxReceiveCount": "3",
    # A new account may have 10 executions at the same time, and Order has two mappings.
    "MaximumConcurrency": "3",
    "ProcessorTimeoutSeconds": "5",
    "TargetTimeoutSeconds": "3",
}

# Marks what this script has made: it deploys onto nothing else, and deletes nothing else.
TAG = "genesys-relay-on-aws"

# Verdicts of experiments that are no cause for concern.
QUIET = ("as believed", "not here")

EXIT_DIFFERS, EXIT_NOT_RUN, EXIT_INTERRUPTED = 1, 3, 130


class NotRun(Exception):
    """The run cannot begin, with what to do."""


class AwsTarget:
    """The target in the account: see target/template.yaml."""

    def __init__(self, relay: Relay, outputs: dict[str, str]) -> None:
        self.relay = relay
        self.url, self.function_arn, self.function_url = outputs["Url"], outputs["FunctionArn"], outputs["FunctionUrl"]

    def received(self, name: str) -> list[dict[str, Any]]:
        """Notes of the requests with this name, in the order in which they ended. The log may lag by seconds."""
        group = f"/aws/lambda/{self.relay.stack}-on-aws-target"
        is_it = lambda line: line.get("onAwsTarget", {}).get("name") == name
        lines = self.relay.log_lines(group, time.time() - 3600, 15, is_it)
        return sorted((line["onAwsTarget"] for line in lines), key=lambda note: note["ended"])


class Account:
    """What this script makes in an account, and removes."""

    def __init__(self, options: argparse.Namespace, session: boto3.Session) -> None:
        self.options, self.session, self.stack = options, session, options.stack
        self.target_stack = f"{self.stack}-target"
        self.id = session.client("sts").get_caller_identity()["Account"]
        self.bucket = f"{self.stack}-on-aws-{self.id}-{session.region_name}"

    def confirm(self) -> None:
        print(f"Account {self.id}, region {self.session.region_name}, stack {self.stack}.")
        print("It deploys a relay, sends it some hundred events, and deletes it with all that it held.")
        if not self.options.yes and input("Type the number of the account to go on: ").strip() != self.id:
            raise NotRun("not confirmed; nothing was done")

    def refuse_foreign_stacks(self) -> None:
        for name in (self.stack, self.target_stack):
            try:
                stack = self.session.client("cloudformation").describe_stacks(StackName=name)["Stacks"][0]
            except ClientError as error:
                if code_of(error) != "ValidationError":
                    raise
                continue
            if not is_ours(stack):
                raise NotRun(f"the stack {name} exists and was not made by this script: choose another --stack")

    def set_budget(self) -> str:
        """A limit for the month, with a mail at 80 % of it where there is an address. AWS counts costs hours later, so the
        budget outlasts the run."""
        limit = {"Amount": str(self.options.budget), "Unit": "USD"}
        budget = {"BudgetName": TAG, "BudgetLimit": limit, "TimeUnit": "MONTHLY", "BudgetType": "COST"}
        notification = {
            "Notification": {"NotificationType": "ACTUAL", "ComparisonOperator": "GREATER_THAN", "Threshold": 80.0},
            "Subscribers": [{"SubscriptionType": "EMAIL", "Address": self.options.email}],
        }
        notifications = [notification] if self.options.email else []
        try:
            self.session.client("budgets", region_name="us-east-1").create_budget(
                AccountId=self.id, Budget=budget, NotificationsWithSubscribers=notifications
            )
        except ClientError as error:
            if code_of(error) == "DuplicateRecordException":
                return "a budget of an earlier run is there"
            return f"no budget: {code_of(error)}"
        return f"{self.options.budget} dollars a month, " + (
            "with a mail" if self.options.email else "without a mail (--email)"
        )

    # ---- deploys ------------------------------------------------------------------------------

    def sam(self, *arguments: str) -> None:
        """Runs sam, which finds the credentials as this script does."""
        environment = {**os.environ, "SAM_CLI_TELEMETRY": "0", "AWS_DEFAULT_REGION": self.session.region_name}
        if self.options.profile:
            environment["AWS_PROFILE"] = self.options.profile
        command = [str(Path(sys.executable).parent / "sam"), *arguments]
        if subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode:
            raise NotRun(f"failed: sam {' '.join(arguments)}")

    def sam_deploy(self, template: Path, stack: str, parameters: dict[str, str]) -> None:
        self.sam(
            "deploy", "--template-file", str(template), "--stack-name", stack, "--s3-bucket", self.bucket, "--no-confirm-changeset",
            "--no-fail-on-empty-changeset", "--capabilities", "CAPABILITY_IAM", "--config-env", TAG,
            "--tags", f"{TAG}=1", "--parameter-overrides", *(f"{name}={value}" for name, value in parameters.items()),
        )  # fmt: skip

    def deploy_target(self) -> dict[str, str]:
        location = {} if self.session.region_name == "us-east-1" else {"LocationConstraint": self.session.region_name}
        s3 = self.session.client("s3")
        try:
            s3.create_bucket(Bucket=self.bucket, **({"CreateBucketConfiguration": location} if location else {}))
        except ClientError as error:
            if code_of(error) != "BucketAlreadyOwnedByYou":
                raise
        self.sam_deploy(HERE / "target/template.yaml", self.target_stack, {"Relay": self.stack})
        stack = self.session.client("cloudformation").describe_stacks(StackName=self.target_stack)["Stacks"][0]
        return {o["OutputKey"]: o["OutputValue"] for o in stack["Outputs"]}

    def deploy_relay(self, target_url: str, architecture: str) -> None:
        """Builds for the architecture, and deploys as docs/operate/deploy.md does."""
        build = ["cargo", "lambda", "build", "--release", "--locked", *(["--arm64"] if architecture == "arm64" else [])]
        if subprocess.run(build, cwd=ROOT, check=False).returncode:
            raise NotRun(f"failed: {' '.join(build)}")
        folder = ROOT / "target/on-aws/build"
        self.sam(
            "build",
            "--config-env",
            TAG,
            "--build-dir",
            str(folder),
            "--parameter-overrides",
            f"Architecture={architecture}",
            f"TargetUrl={target_url}",
        )
        parameters = {**PARAMETERS, "Architecture": architecture, "TargetUrl": target_url}
        if self.options.email:
            parameters["AlarmEmail"] = self.options.email
        self.sam_deploy(folder / "template.yaml", self.stack, parameters)

    # ---- clean-up -----------------------------------------------------------------------------

    def clean(self) -> str:
        """Removes all that carries this run's name, whatever is there of it. Gives what is left."""
        left: list[str] = []
        relay = Relay(self.session, self.stack, None, False)
        for what, step in (
            ("event bus", lambda: experiments.remove_bus(relay)),
            ("role", lambda: remove_role(self.session.client("iam"), f"{self.stack}-on-aws-look")),
            ("stack", lambda: self.delete_stack(self.stack)),
            ("stack of the target", lambda: self.delete_stack(self.target_stack)),
            ("queues of experiments", self.delete_queues),
            ("bucket of code", lambda: self.empty_and_delete(self.bucket)),
        ):
            try:
                step()
            except (ClientError, BotoCoreError, Unmet) as error:
                left.append(f"{what} ({error})")
        return "; ".join(
            ["left: " + ", ".join(left)] if left else ["nothing is left but the budget, which `--clean` deletes"]
        )

    def delete_budget(self) -> None:
        ignore(
            "NotFoundException",
            self.session.client("budgets", region_name="us-east-1").delete_budget,
            AccountId=self.id,
            BudgetName=TAG,
        )

    def delete_stack(self, name: str) -> None:
        """Deletes a stack with what its template retains. Also what an earlier run has left: CloudFormation knows the
        events of a deleted stack for 90 days."""
        cloudformation = self.session.client("cloudformation")
        for page in cloudformation.get_paginator("list_stacks").paginate():
            for summary in page["StackSummaries"]:
                if summary["StackName"] != name or summary.get("ParentId"):
                    continue
                stack_id = summary["StackId"]
                if not is_ours(cloudformation.describe_stacks(StackName=stack_id)["Stacks"][0]):
                    continue
                if summary["StackStatus"] != "DELETE_COMPLETE":
                    self.delete_one(stack_id)
                for events in cloudformation.get_paginator("describe_stack_events").paginate(StackName=stack_id):
                    for event in events["StackEvents"]:
                        if event["ResourceStatus"] == "DELETE_SKIPPED":
                            self.delete_retained(event["ResourceType"], event["PhysicalResourceId"])

    def delete_one(self, stack_id: str) -> None:
        cloudformation = self.session.client("cloudformation")
        print(f"deleting {stack_id}", flush=True)

        def state(*wanted: str) -> str | None:
            status = cloudformation.describe_stacks(StackName=stack_id)["Stacks"][0]["StackStatus"]
            return status if status.endswith(wanted) else None

        # An update that Ctrl-C has cut off ends first. What is being created can be deleted.
        if state("UPDATE_IN_PROGRESS", "CLEANUP_IN_PROGRESS", "ROLLBACK_IN_PROGRESS"):
            until("the update ends", lambda: state("_COMPLETE", "_FAILED"), 1800, 5)
        cloudformation.delete_stack(StackName=stack_id)
        ended = until("the stack is deleted", lambda: state("DELETE_COMPLETE", "DELETE_FAILED"), 1800, 2)
        if ended != "DELETE_COMPLETE":
            raise Unmet(f"{stack_id}: {ended}")

    def delete_retained(self, kind: str, name: str) -> None:
        client = self.session.client
        if kind == "AWS::SQS::Queue":
            ignore("AWS.SimpleQueueService.NonExistentQueue", client("sqs").delete_queue, QueueUrl=name)
        elif kind == "AWS::S3::Bucket":
            self.empty_and_delete(name)
        elif kind == "AWS::DynamoDB::Table":
            ignore("ResourceNotFoundException", client("dynamodb").delete_table, TableName=name)
        elif kind == "AWS::SecretsManager::Secret":
            ignore(
                "ResourceNotFoundException",
                client("secretsmanager").delete_secret,
                SecretId=name,
                ForceDeleteWithoutRecovery=True,
            )

    def delete_queues(self) -> None:
        sqs = self.session.client("sqs")
        for page in sqs.get_paginator("list_queues").paginate(QueueNamePrefix=f"{self.stack}-on-aws-"):
            for url in page.get("QueueUrls", []):
                sqs.delete_queue(QueueUrl=url)

    def empty_and_delete(self, bucket: str) -> None:
        s3 = self.session.client("s3")
        try:
            for page in s3.get_paginator("list_object_versions").paginate(Bucket=bucket):
                found = [
                    {"Key": o["Key"], "VersionId": o["VersionId"]}
                    for o in page.get("Versions", []) + page.get("DeleteMarkers", [])
                ]
                if found:
                    s3.delete_objects(Bucket=bucket, Delete={"Objects": found})
            s3.delete_bucket(Bucket=bucket)
        except ClientError as error:
            if code_of(error) != "NoSuchBucket":
                raise


def is_ours(stack: dict[str, Any]) -> bool:
    # A stack of a change set that was never executed holds nothing, and has no tags yet.
    return stack["StackStatus"] == "REVIEW_IN_PROGRESS" or any(tag["Key"] == TAG for tag in stack.get("Tags", []))


def ignore(code: str, call: Any, **arguments: object) -> None:
    try:
        call(**arguments)
    except ClientError as error:
        if code_of(error) != code:
            raise


# ---- The run ----------------------------------------------------------------------------------------------------------


class Report:
    """What was found, written after each experiment: as Markdown, to be pasted into an issue, and as JSON."""

    def __init__(self, options: argparse.Namespace, region: str, account: str) -> None:
        self.options, self.account, self.found = options, account, []
        commit = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
        done = subprocess.run(commit, cwd=ROOT, capture_output=True, text=True, check=False)
        self.facts = {
            "where": "the local AWS" if options.local else "AWS",
            "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
            "commit": done.stdout.strip() or "unknown",
            "region": region,
            "architecture": options.architecture,
            "clean": "not yet",
        }
        folder = Path(options.report) if options.report else ROOT / "target/on-aws"
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / f"{'local' if options.local else options.stack}.md"

    def add(self, experiment: experiments.Experiment, verdict: str, found: str, seconds: float) -> None:
        entry = {name: getattr(experiment, name) for name in ("name", "question", "steps", "relies", "expected")}
        self.found.append({**entry, "verdict": verdict, "found": found, "seconds": round(seconds)})
        print(f"  {verdict:<12} {experiment.name}: {found}", flush=True)
        self.write()

    def count(self, verdict: str) -> int:
        return sum(1 for entry in self.found if entry["verdict"] == verdict)

    def write(self) -> None:
        counts = {"believed": "as believed", "differs": "differs", "failed": "failed", "absent": "not here"}
        numbers = {name: self.count(verdict) for name, verdict in counts.items()}
        tried = [e for e in self.found if e["verdict"] != "not here"]
        absent = [e for e in self.found if e["verdict"] == "not here"]
        rows = ["| experiment | question | expected | found | verdict |", "|---|---|---|---|---|"]
        rows += [
            f"| `{e['name']}`, {e['seconds']} s | {cell(e['question'])} ({e['relies']}) | {cell(e['expected'])} | {cell(e['found'])} "
            f"| {'**' + e['verdict'] + '**' if e['verdict'] not in QUIET else e['verdict']} |"
            for e in tried
        ]
        if absent:
            rows += ["", "Not here:", ""] + [f"- `{e['name']}`: {e['found']}" for e in absent]
        template = string.Template((HERE / "report.md").read_text())
        self.save(self.path, template.substitute(self.facts, **numbers, rows="\n".join(rows)))
        self.save(
            self.path.with_suffix(".json"), json.dumps({**self.facts, "experiments": self.found}, indent=2) + "\n"
        )

    def save(self, path: Path, text: str) -> None:
        path.write_text(text.replace(self.account, "<account>"))


def cell(text: str) -> str:
    return re.sub(r"\s+", " ", text).replace("|", "\\|")


def experiment_all(relay: Relay, options: argparse.Namespace, report: Report) -> None:
    for one in experiments.ALL:
        if options.only and one.name not in options.only:
            continue
        began = time.monotonic()
        if options.local and one.not_here and not options.all:
            report.add(one, "not here", one.not_here, 0)
            continue
        try:
            is_so, found = one.run(relay)
            verdict = "as believed" if is_so else "differs"
        except NotPossible as error:
            verdict, found = "not here", str(error)
        # One that fails says so in the report, and the next one runs.
        except Exception as error:  # noqa: BLE001
            verdict, found = "failed", f"{type(error).__name__}: {error}"
        report.add(one, verdict, found, time.monotonic() - began)
        if verdict == "failed":
            # What it has changed and could not put back.
            relay.update(**PARAMETERS, BatchSize=10)


def run_local(options: argparse.Namespace, session: boto3.Session, report: Report) -> None:
    if not os.environ.get("AWS_ENDPOINT_URL", "").startswith("http://127.0.0.1:"):
        raise NotRun("AWS_ENDPOINT_URL does not lead to a local AWS: run `cargo xtask on-aws --local`")
    relay = Relay(session, options.stack, LocalTarget(), True)
    relay.read_outputs()
    relay.update(**PARAMETERS, TargetUrl=relay.target.url)
    relay.put_secret()
    experiment_all(relay, options, report)
    report.facts["clean"] = "the stack ends with the local AWS"


def run_on_aws(options: argparse.Namespace, session: boto3.Session, report: Report, account: Account) -> None:
    if not shutil.which("cargo-lambda"):
        raise NotRun("cargo lambda is missing: see docs/operate/deploy.md")
    account.confirm()
    account.refuse_foreign_stacks()
    print(f"budget: {account.set_budget()}", flush=True)

    def work() -> None:
        relay = Relay(session, options.stack, None, False)
        relay.target = AwsTarget(relay, account.deploy_target())
        relay.architecture = options.architecture

        def deploy(architecture: str) -> None:
            account.deploy_relay(relay.target.url, architecture)
            relay.read_outputs()

        relay.deploy = deploy
        deploy(options.architecture)
        relay.put_secret()
        experiment_all(relay, options, report)

    then_clean_up(account, report.facts, work)


def then_clean_up(account: Account, facts: dict[str, str], work: Callable[[], None]) -> None:
    """Works, and cleans up, however the work ends. Another Ctrl-C ends the clean-up, which `--clean` repeats."""
    try:
        work()
    finally:
        print("cleaning up; `--clean` does it again if this is interrupted", flush=True)
        facts["clean"] = account.clean()


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="cargo xtask on-aws", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--stack", default="relay-on-aws", help="name of the stack to make [default: relay-on-aws]")
    parser.add_argument("--profile", help="profile of the AWS CLI")
    parser.add_argument("--region", help="region [default: that of the profile]")
    parser.add_argument(
        "--architecture", default="arm64", choices=["arm64", "x86_64"], help="of the functions [default: arm64]"
    )
    parser.add_argument("--email", help="address for an alarm, whose subscription you confirm, and for the budget")
    parser.add_argument(
        "--budget", type=int, default=5, help="limit of the account's costs in a month, in dollars [default: 5]"
    )
    parser.add_argument("--only", action="append", metavar="NAME", help="run this experiment alone; may be repeated")
    parser.add_argument("--yes", action="store_true", help="do not ask for confirmation")
    parser.add_argument(
        "--clean", action="store_true", help="remove what a run has left, and its budget, and do nothing else"
    )
    parser.add_argument("--report", metavar="FOLDER", help="where to write the report [default: target/on-aws]")
    parser.add_argument("--local", action="store_true", help="run on the local AWS what it can run")
    parser.add_argument("--all", action="store_true", help="with --local: also what it cannot run")
    options = parser.parse_args()
    if not re.fullmatch("[a-z][a-z0-9-]{0,23}", options.stack):
        parser.error("the name of the stack has at most 24 small letters, digits and hyphens, and begins with a letter")
    unknown = set(options.only or ()) - {one.name for one in experiments.ALL}
    if unknown:
        parser.error(
            f"no such experiment: {', '.join(sorted(unknown))}; there are {', '.join(one.name for one in experiments.ALL)}"
        )
    return options


def main() -> int:
    options = arguments()
    # As Ctrl-C, so that the clean-up runs.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        if os.environ.get("AWS_ENDPOINT_URL") and not options.local:
            raise NotRun("AWS_ENDPOINT_URL is set: this would not be AWS")
        session = boto3.Session(profile_name=options.profile, region_name=options.region)
        if not session.region_name:
            raise NotRun("no region: give --region")
        account = Account(options, session)
        if options.clean:
            account.confirm()
            account.refuse_foreign_stacks()
            print(account.clean())
            account.delete_budget()
            return 0
        report = Report(options, session.region_name, account.id)
        try:
            if options.local:
                run_local(options, session, report)
            else:
                run_on_aws(options, session, report, account)
        finally:
            report.write()
            print(f"report: {report.path}", flush=True)
    except (NotRun, BotoCoreError, ClientError, Unmet) as error:
        print(error, file=sys.stderr)
        return EXIT_NOT_RUN
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    return EXIT_DIFFERS if report.count("differs") + report.count("failed") else 0


if __name__ == "__main__":
    sys.exit(main())
