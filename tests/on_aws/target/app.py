"""The target of the experiments: a Lambda function on AWS, a server on 127.0.0.1 here.

A body says how it wants to be answered: `{"onAws":{"name":"…","answers":[503,200],"seconds":0}}`. The first attempt gets
the first answer, and so on; the last answer is for all later ones. Without answers it is 200.
"""

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


def answer(headers, body):
    """Status of the answer, and what is noted of the request. Names of headers are lower case."""
    began = time.time()
    try:
        content = json.loads(body)
        # What a rule of EventBridge sends has them in its detail.
        orders = content.get("detail", content)["onAws"]
    except (ValueError, KeyError, TypeError, AttributeError):
        orders = {}
    attempt = int(headers.get("x-relay-attempt", "1"))
    answers = orders.get("answers") or [200]
    status = answers[min(attempt, len(answers)) - 1]
    time.sleep(orders.get("seconds", 0))
    note = {
        "name": orders.get("name"),
        "event": headers.get("webhook-id"),
        "attempt": attempt,
        "status": status,
        "order": headers.get("x-relay-order"),
        "began": began,
        "ended": time.time(),
        "bytes": len(body),
    }
    return status, note


def handler(event, context):
    """Entry point on Lambda, behind an HTTP API and a function URL."""
    body = event.get("body") or ""
    if event.get("isBase64Encoded"):
        import base64

        body = base64.b64decode(body)
    status, note = answer(event["headers"], body)
    print(json.dumps({"onAwsTarget": note}))
    return {"statusCode": status, "body": "{}"}


class LocalTarget:
    """The same on a free port of this machine."""

    def __init__(self):
        self.notes = []
        notes = self.notes

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                body = self.rfile.read(int(self.headers.get("content-length", "0")))
                headers = {name.lower(): value for name, value in self.headers.items()}
                status, note = answer(headers, body)
                notes.append(note)
                self.send_response(status)
                self.send_header("content-length", "2")
                self.end_headers()
                self.wfile.write(b"{}")

            def log_message(self, *_):
                """Notes are enough."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def received(self, name):
        """Notes of the requests with this name, in the order in which they ended."""
        return sorted((n for n in self.notes if n["name"] == name), key=lambda n: n["ended"])
