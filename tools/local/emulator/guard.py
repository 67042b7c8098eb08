"""Admits to the local AWS only requests that its own key pairs sign, and to its HTTP API what AWS lets in.

ministack by itself takes the word of a request that names the root pair, allows every web page, takes any `Host`, and has routes
that need no key. So a caller that reaches its port, a web page of the developer's browser or another user of the machine, could run code
as the developer. Here:

1. A request that a web page of elsewhere makes is refused, by its `Origin` or `Sec-Fetch-Site`, and so is a preflight. A name
   that leads to this machine only for a moment (DNS rebinding) shows in `Host`, and is refused.
2. A request is served only if the signature of the developer's pair, or of a function's session, verifies. Open without one are the
   health page, and the routes of the HTTP API that the template leaves open.
3. A body that is larger than any that this project sends is refused before it is read: the signature is verified with all of it.
4. The sessions of functions are random; those of ministack follow from the names of function and role. Their Runtime API
   answers only at a path that is secret.

The developer's pair is that of a user of IAM whom everything is allowed. It is not the root pair, which cannot be used.
"""

import contextvars
import secrets
import threading
from urllib.parse import parse_qs, quote

from ministack import app as gateway
from ministack.core import iam_evaluator, lambda_runtime, responses, router
from ministack.services import iam, lambda_svc, sts

DEVELOPER = "developer"
EVERYTHING = '{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]}'
HEALTH = "/_ministack/health"
ADMINISTRATION = ("/_ministack", "/_localstack")
# More than twice the largest that is sent: the code of a function, a debug build that is not compressed.
MAX_BODY_BYTES = 128 * 1024 * 1024
THIS_MACHINE = ("127.0.0.1", "localhost")
UNSIGNED = ("The local AWS serves only requests that are signed with its own keys: the AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY that it has printed, which are in target/local/env.")

# The key whose signature the request carries, verified.
caller = contextvars.ContextVar("caller", default=None)


def install(key_id, secret):
    """Closes the server, and opens it for the owner of this key pair."""
    make_developer(key_id, secret)
    make_sessions_random()
    close_runtime_apis()
    gateway._enforce_execute_api = judge_by_verified_caller(gateway._enforce_execute_api)
    gateway.app = Guard(gateway.app)


def make_developer(key_id, secret):
    iam._create_user({"UserName": DEVELOPER})
    iam._put_user_policy({"UserName": DEVELOPER, "PolicyName": "everything", "PolicyDocument": EVERYTHING})
    iam._access_keys[key_id] = {"UserName": DEVELOPER, "AccessKeyId": key_id, "SecretAccessKey": secret,
                                "Status": "Active", "CreateDate": iam._now()}


def make_sessions_random():
    sessions, lock = {}, threading.Lock()

    def execution_credentials(config):
        function, role = config["FunctionArn"], config.get("Role", "").rsplit("/", 1)[-1]
        account, _region = lambda_runtime._account_region_from_function_config(config)
        name = config.get("FunctionName", "function")[:64]
        with lock:
            if (function, role) not in sessions:
                key_id, secret, token = "ASIA" + secrets.token_hex(8).upper(), secrets.token_hex(), secrets.token_hex()
                sts.register_session(key_id, {"Arn": f"arn:aws:sts::{account}:assumed-role/{role}/{name}",
                                              "UserId": f"{role}:{name}", "SecretAccessKey": secret, "SessionToken": token})
                sessions[function, role] = {"AWS_ACCESS_KEY_ID": key_id, "AWS_SECRET_ACCESS_KEY": secret,
                                            "AWS_SESSION_TOKEN": token}
            return sessions[function, role]

    lambda_runtime.execution_credentials = lambda_svc.execution_credentials = execution_credentials


def close_runtime_apis():
    prefix = "/" + secrets.token_urlsafe()
    build_open, environment_of = lambda_runtime.ProvidedWorker._build_handler_class, lambda_svc._provided_worker_env

    def build_closed(worker, generation, pending):
        class Handler(build_open(worker, generation, pending)):
            def parse_request(self):
                understood = super().parse_request()
                if understood and not self.path.startswith(prefix + "/"):
                    self.send_error(403)
                    return False
                return understood

        return Handler

    def environment(config, code_dir, port):
        return environment_of(config, code_dir, port) | {"AWS_LAMBDA_RUNTIME_API": f"http://127.0.0.1:{port}{prefix}"}

    lambda_runtime.ProvidedWorker._build_handler_class = build_closed
    lambda_svc._provided_worker_env = environment


def judge_by_verified_caller(enforce):
    """ministack takes any header that is no signature for that of the root pair."""
    def judge(api_id, stage, method, path, headers, query_params, iam_action):
        is_open = gateway._execute_api_authorization_type(api_id, stage, method, path) in (None, "NONE")
        if not caller.get() and not (is_open and iam_action == "execute-api:Invoke"):
            return 403, {"Content-Type": "application/json"}, b'{"message":"Forbidden"}'
        return enforce(api_id, stage, method, path, headers, query_params, iam_action)

    return judge


class Guard:
    """Stands before the application, and hears of a request before it does."""

    def __init__(self, application):
        self.application = application

    async def __call__(self, scope, receive, send):
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1008})
        elif scope["type"] != "http":
            await self.application(scope, receive, send)
        else:
            await self.admit(scope, receive, send)

    async def admit(self, scope, receive, send):
        headers = {}
        for name, value in scope["headers"]:
            headers.setdefault(name.decode("latin-1").lower(), []).append(value.decode("latin-1"))
        path = scope["path"]
        if reason := foreign(scope["method"], headers):
            await answer(send, 403, {"Content-Type": "text/plain"}, reason.encode())
        elif path == HEALTH:
            await self.application(scope, receive, send)
        elif path.startswith(ADMINISTRATION):
            await answer(send, 403, {"Content-Type": "text/plain"}, b"The local AWS is administered by its owner alone.")
        elif (body := await whole(receive, headers)) is None:
            reason = f"The local AWS takes bodies of at most {MAX_BODY_BYTES} bytes.".encode()
            await answer(send, 413, {"Content-Type": "text/plain", "Connection": "close"}, reason)
        else:
            failure = verify(scope, headers, body)
            # The HTTP API judges by itself whom its routes are open to.
            if failure and gateway._parse_execute_api_url("", path) is None:
                await answer(send, *refusal(scope, headers, failure))
            else:
                await self.application(scope, once(body, receive), send)


def foreign(method, headers):
    """Why a request is none of a program on this machine; None if it may be one."""
    if [host.partition(":")[0] for host in headers.get("host", [])] not in ([name] for name in THIS_MACHINE):
        return "The local AWS has no such host name: it is 127.0.0.1, or localhost."
    if "origin" in headers or headers.get("sec-fetch-site", ["none"]) != ["none"] or method == "OPTIONS":
        return "The local AWS serves no web pages."
    return None


def verify(scope, headers, body):
    """Why the signature of a request does not verify; None if it does, and then the caller is known."""
    caller.set(None)
    query = parse_qs(scope["query_string"].decode("utf-8", "replace"), keep_blank_values=True)
    key_id = router.extract_access_key_id({"authorization": headers.get("authorization", [""])[0]}, query)
    raw_path = scope.get("raw_path") or quote(scope["path"]).encode()
    iam_evaluator.pin_signed_request(scope["method"], raw_path.decode("latin-1"), query, scope["headers"])
    iam_evaluator.pin_signed_body(body)
    outcome = None
    if len(headers.get("authorization", [])) < 2 and not iam_evaluator.is_root_access_key(key_id):
        outcome = iam_evaluator.authenticate(key_id, responses.get_account_id())
    if isinstance(outcome, iam_evaluator.ResolvedCredential):
        caller.set(key_id)
        return None
    return outcome or iam_evaluator.AuthError("UnrecognizedClientException", UNSIGNED)


def refusal(scope, headers, failure):
    """The answer in the protocol of the service that the request is for."""
    headers = {name: values[0] for name, values in headers.items()}
    query = parse_qs(scope["query_string"].decode("utf-8", "replace"), keep_blank_values=True)
    service = router.detect_service(scope["method"], scope["path"], headers, query)
    return gateway._credential_failure(service, "", secrets.token_hex(), failure, headers)


async def answer(send, status, headers, body):
    body = body if isinstance(body, bytes) else body.encode()
    encoded = [(name.lower().encode(), str(value).encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": encoded})
    await send({"type": "http.response.body", "body": body})


async def whole(receive, headers):
    """The body of a request, or what had come of it when the client went away; None where it is too large to be read."""
    if int(headers.get("content-length", ["0"])[0]) > MAX_BODY_BYTES:
        return None
    chunks, size = [], 0
    while (message := await receive())["type"] == "http.request":
        chunks.append(message.get("body", b""))
        size += len(chunks[-1])
        if size > MAX_BODY_BYTES:
            return None
        if not message.get("more_body"):
            break
    return b"".join(chunks)


def once(body, receive):
    """Gives the body in one piece, and after that what the client does."""
    given = False

    async def receive_again():
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return receive_again
