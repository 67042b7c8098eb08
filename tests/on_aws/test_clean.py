"""The clean-up removes what a run has made, and nothing else. Runs on the local AWS to which AWS_ENDPOINT_URL leads."""

import argparse
import json
import unittest

import boto3

from relay import until
from run import TAG, Account, NotRun, then_clean_up

KINDS = {
    "Queue": ("AWS::SQS::Queue", {}),
    "Table": (
        "AWS::DynamoDB::Table",
        {
            "BillingMode": "PAY_PER_REQUEST",
            "AttributeDefinitions": [{"AttributeName": "id", "AttributeType": "S"}],
            "KeySchema": [{"AttributeName": "id", "KeyType": "HASH"}],
        },
    ),
    "Bucket": ("AWS::S3::Bucket", {"VersioningConfiguration": {"Status": "Enabled"}}),
    "Secret": ("AWS::SecretsManager::Secret", {"SecretString": "{}"}),
}


class Clean(unittest.TestCase):
    def setUp(self) -> None:
        self.session = boto3.Session()
        self.cloudformation = self.session.client("cloudformation")

    def account(self, stack: str) -> Account:
        return Account(argparse.Namespace(stack=stack, email=None, budget=5), self.session)

    def create(self, stack: str, tags: list[dict]) -> dict[str, str]:
        """A stack that retains one resource of each kind. Gives their names."""
        resources = {
            name: {"Type": kind, "DeletionPolicy": "Retain", "Properties": properties}
            for name, (kind, properties) in KINDS.items()
        }
        self.cloudformation.create_stack(StackName=stack, TemplateBody=json.dumps({"Resources": resources}), Tags=tags)
        status = lambda: self.cloudformation.describe_stacks(StackName=stack)["Stacks"][0]["StackStatus"]
        until("the stack is there", lambda: status() == "CREATE_COMPLETE", 60, 0.1)
        listed = self.cloudformation.list_stack_resources(StackName=stack)["StackResourceSummaries"]
        names = {r["LogicalResourceId"]: r["PhysicalResourceId"] for r in listed}
        s3 = self.session.client("s3")
        for _ in range(2):
            s3.put_object(Bucket=names["Bucket"], Key="an object", Body=b"x")
        s3.delete_object(Bucket=names["Bucket"], Key="an object")
        return names

    def left(self, names: dict[str, str]) -> set[str]:
        client = self.session.client
        # The local AWS has queues under another host's name than in a stack's resources.
        queues = [url.rsplit("/")[-1] for url in client("sqs").list_queues().get("QueueUrls", [])]
        buckets = [b["Name"] for b in client("s3").list_buckets()["Buckets"]]
        found = {
            "Queue": names["Queue"].rsplit("/")[-1] in queues,
            "Table": names["Table"] in client("dynamodb").list_tables()["TableNames"],
            "Bucket": names["Bucket"] in buckets,
            "Secret": any(
                names["Secret"] in (s["ARN"], s["Name"]) for s in client("secretsmanager").list_secrets()["SecretList"]
            ),
        }
        return {name for name, is_there in found.items() if is_there}

    def test_what_a_run_has_made_is_removed(self) -> None:
        names = self.create("ours", [{"Key": TAG, "Value": "1"}])
        sqs = self.session.client("sqs")
        queue = sqs.create_queue(QueueName="ours-on-aws-limits-1")["QueueUrl"]
        self.assertEqual(self.left(names), set(KINDS))
        self.account("ours").refuse_foreign_stacks()
        self.assertIn("nothing is left", self.account("ours").clean())
        self.assertEqual(self.left(names), set())
        self.assertNotIn(queue, sqs.list_queues().get("QueueUrls", []))
        self.assertIn("nothing is left", self.account("ours").clean())

    def test_what_an_interrupted_clean_up_left_is_removed(self) -> None:
        names = self.create("half", [{"Key": TAG, "Value": "1"}])
        stack_id = self.cloudformation.describe_stacks(StackName="half")["Stacks"][0]["StackId"]
        self.account("half").delete_one(stack_id)
        self.assertEqual(self.left(names), set(KINDS))
        self.account("half").clean()
        self.assertEqual(self.left(names), set())

    def test_what_others_have_made_stays(self) -> None:
        names = self.create("theirs", [])
        with self.assertRaises(NotRun):
            self.account("theirs").refuse_foreign_stacks()
        self.account("theirs").clean()
        self.assertEqual(self.left(names), set(KINDS))
        stack_id = self.cloudformation.describe_stacks(StackName="theirs")["Stacks"][0]["StackId"]
        self.account("theirs").delete_one(stack_id)
        self.account("theirs").clean()
        self.assertEqual(self.left(names), set(KINDS))

    def test_an_interrupted_run_cleans_up(self) -> None:
        names, facts = {}, {}

        def work() -> None:
            names.update(self.create("cut", [{"Key": TAG, "Value": "1"}]))
            raise KeyboardInterrupt

        with self.assertRaises(KeyboardInterrupt):
            then_clean_up(self.account("cut"), facts, work)
        self.assertEqual(self.left(names), set())
        self.assertIn("nothing is left", facts["clean"])

    def test_budget_is_made_once_and_deleted(self) -> None:
        account = self.account("ours")
        self.assertIn("5 dollars", account.set_budget())
        self.assertIn("is there", account.set_budget())
        account.delete_budget()
        self.assertIn("5 dollars", account.set_budget())


if __name__ == "__main__":
    unittest.main()
