"""The floor: a Lambda function in Python, on AWS's own runtime client, that does nothing and answers."""

ANSWER = {
    "statusCode": 200,
    "headers": {"content-type": "application/json"},
    "body": '{"status":"accepted"}',
}


def handler(event, context):
    return ANSWER
