"""Calls the stand-in for Genesys Cloud with the official SDK, and holds every answer to the SDK's models.

The SDK itself forgives: it leaves out what it does not know and turns what it can. So the JSON is checked as it came.
Standard input is a JSON object:

url, clientId, clientSecret   where the stand-in is, and who may call it
expiredToken                  a token that passes no more
interval                      what the sample conversations are found in
messages                      the status of each sample message, by id
forbidden                     a conversation that answers 403
integration                   the id of an Open Messaging integration
regions                       the hosts by region that the relay knows
requests                      bodies that the relay sent, each as {"model": ..., "body": ...}
"""

import ast
import inspect
import json
import re
import sys
from datetime import datetime
from urllib.parse import urlsplit

import PureCloudPlatformClientV2 as sdk
from PureCloudPlatformClientV2.default_http_client import DefaultHttpClient
from PureCloudPlatformClientV2.rest import ApiException

PRIMITIVES = {"str": str, "int": int, "float": (int, float), "bool": bool}
RATE_LIMIT = ["inin-ratelimit-count", "inin-ratelimit-allowed", "inin-ratelimit-reset"]

problems = []


def expect(holds, problem):
    if not holds:
        problems.append(problem)


def wrong(value, kind, where):
    """All that keeps a JSON value from being of a type of the SDK."""
    if listed := re.fullmatch(r"list\[(.*)\]", kind):
        if not isinstance(value, list):
            return [f"{where} is not a list"]
        return [each for index, item in enumerate(value) for each in wrong(item, listed[1], f"{where}[{index}]")]
    if mapped := re.fullmatch(r"dict\(str, (.*)\)", kind):
        if not isinstance(value, dict):
            return [f"{where} is not an object"]
        return [each for name, item in value.items() for each in wrong(item, mapped[1], f"{where}.{name}")]
    if kind == "object":
        return []
    if kind in PRIMITIVES:
        # A bool is an int in Python, and nowhere else.
        fits = isinstance(value, PRIMITIVES[kind]) and (kind == "bool" or not isinstance(value, bool))
        return [] if fits else [f"{where} is not of type {kind}: {value!r}"]
    if kind == "datetime":
        return [] if is_time(value) else [f"{where} is not a time: {value!r}"]
    return wrong_model(value, kind, where)


def wrong_model(value, kind, where):
    if not isinstance(value, dict):
        return [f"{where} is not a {kind}: {value!r}"]
    model = getattr(sdk, kind)()
    attributes = {name: attribute for attribute, name in model.attribute_map.items()}
    found = []
    for name, item in value.items():
        if name not in attributes:
            found.append(f"{where}.{name} is not in {kind}")
            continue
        attribute = attributes[name]
        of_item = wrong(item, model.swagger_types[attribute], f"{where}.{name}")
        allowed = allowed_values(model, attribute)
        if allowed and not of_item:
            values = item if isinstance(item, list) else [item]
            of_item = [f"{where}.{name} cannot be {value!r}" for value in values if value not in allowed]
        found += of_item
    return found


def allowed_values(model, attribute):
    """They stand in the code that sets the attribute, and nowhere else; and it takes them in any case."""
    code = inspect.getsource(getattr(type(model), attribute).fset)
    listed = re.search(r"allowed_values = (\[.*\])", code)
    return listed and ast.literal_eval(listed[1])


def is_time(value):
    try:
        return datetime.fromisoformat(value).tzinfo is not None
    except (TypeError, ValueError):
        return False


class Recorder(DefaultHttpClient):
    """The SDK's client, which keeps the last answer as it came."""

    def request(self, options):
        self.last = super().request(options)
        return self.last


class StandIn:
    def __init__(self, given, token=None):
        url = urlsplit(given["url"])
        sdk.configuration.gateway_configuration = sdk.GatewayConfiguration(
            host=url.hostname, port=url.port, protocol=url.scheme
        )
        self.client = sdk.ApiClient()
        self.http = Recorder()
        self.client.set_http_client(self.http)
        if token is None:
            self.client.get_client_credentials_token(given["clientId"], given["clientSecret"])
            token = self.client.access_token
            answer = json.loads(self.http.last.data)
            expect(answer["token_type"] == "bearer" and answer["expires_in"] == 86400, f"the login answers {answer}")
        self.client.access_token = token
        self.analytics = sdk.AnalyticsApi(self.client)
        self.conversations = sdk.ConversationsApi(self.client)

    def get(self, model, call, *arguments):
        """What the SDK makes of an answer, after a look at the answer itself."""
        made = call(*arguments)
        problems.extend(wrong(json.loads(self.http.last.data), model, model))
        headers = self.http.last.getheaders()
        expect(headers.get("inin-correlation-id"), f"{model} has no correlation id")
        expect(all(headers.get(name, "").isdigit() for name in RATE_LIMIT), f"{model} does not tell the rate limit")
        return made

    def search(self, interval, size, number):
        predicates = []
        for dimension, value in [("mediaType", "message"), ("messageType", "open")]:
            predicate = sdk.SegmentDetailQueryPredicate()
            predicate.type, predicate.operator = "dimension", "matches"
            predicate.dimension, predicate.value = dimension, value
            predicates.append(predicate)
        query, segments, paging = sdk.ConversationQuery(), sdk.SegmentDetailQueryFilter(), sdk.PagingSpec()
        segments.type, segments.predicates = "and", predicates
        paging.page_size, paging.page_number = size, number
        query.interval, query.segment_filters, query.paging = interval, [segments], paging
        query.order, query.order_by = "asc", "conversationStart"
        search = self.analytics.post_analytics_conversations_details_query
        return self.get("AnalyticsConversationQueryResponse", search, query)

    def details(self, message):
        """With the parameter that older SDKs have, and this one no longer."""
        path = "/api/v2/conversations/messages/{messageId}/details"
        return self.client.call_api(
            path, "GET", {"messageId": message}, {"useNormalizedMessage": "true"}, {},
            response_type="MessageData", auth_settings=["PureCloud OAuth"],
        )


def refused(status, code, call, *arguments):
    try:
        call(*arguments)
    except ApiException as refusal:
        body = json.loads(refusal.body)
        problems.extend(wrong(body, "ErrorBody", f"ErrorBody of {status}"))
        found = (refusal.status, body.get("status"), body.get("code"))
        expect(found == (status, status, code), f"{status} {code} was expected: {found}")
        expect(body.get("contextId") == refusal.headers.get("inin-correlation-id"), f"{status} has two correlation ids")
        return body
    problems.append(f"{status} {code} was expected, and nothing was refused")
    return {}


def check_answers(given):
    stand_in = StandIn(given)
    pages = []
    while (page := stand_in.search(given["interval"], 1, len(pages) + 1)).conversations:
        pages += page.conversations
    ids = [found.conversation_id for found in pages]
    expect(len(ids) > 1 and len(set(ids)) == len(ids) == page.total_hits, f"pages do not make a list: {ids}")
    starts = [found.conversation_start for found in pages]
    expect(starts == sorted(starts), f"the conversations are not in order: {starts}")

    statuses = {}
    for found in ids:
        conversation = stand_in.get("MessageConversation", stand_in.conversations.get_conversations_message, found)
        expect(conversation.id == found, f"{found} is another conversation")
        for message in [each for side in conversation.participants for each in side.messages or []]:
            statuses[message.message_id] = message.message_status
            for call in [stand_in.conversations.get_conversations_message_details, stand_in.details]:
                data = stand_in.get("MessageData", call, message.message_id)
                expect(data.normalized_message.id == message.message_id, f"{message.message_id} is another message")
                seen = (data.conversation_id, data.status)
                expect(seen == (found, message.message_status), f"{message.message_id} is also {seen}")
        listed = [each.message_id for side in conversation.participants for each in side.messages or []]
        bulk = lambda name: stand_in.conversations.post_conversations_message_messages_bulk(name, body=listed)
        together = stand_in.get("TextMessageListing", bulk, found)
        expect({each.id for each in together.entities} == set(listed), f"not all of {found} come together")
    expect(statuses == given["messages"], f"these messages were found: {statuses}")

    integration = stand_in.conversations.get_conversations_messaging_integrations_open_integration_id
    found = stand_in.get("OpenIntegration", integration, given["integration"])
    expect(found.outbound_notification_webhook_url.startswith("https://"), "the integration has no URL")
    refused(404, "not.found", integration, "unknown")

    conversation = stand_in.conversations.get_conversations_message
    refused(404, "not.found", conversation, "unknown")
    refused(404, "not.found", stand_in.conversations.get_conversations_message_details, "unknown")
    forbidden = refused(403, "missing.permissions", conversation, given["forbidden"])
    expect(forbidden.get("messageParams", {}).get("permissions"), "403 does not name the permission")
    refused(400, "bad.request", stand_in.search, given["interval"], 101, 1)
    expired = StandIn(given, given["expiredToken"])
    refused(401, "bad.credentials", expired.conversations.get_conversations_message, ids[0])
    print(f"{len(ids)} conversations and {len(statuses)} messages were compared with the SDK's models")


def check_relay(given):
    regions, requests = given["regions"], given["requests"]
    official = {host.name.replace("_", "-"): host.value.removeprefix("https://api.") for host in sdk.PureCloudRegionHosts}
    expect(regions == official, f"the SDK has other regions: {sorted(regions.items() ^ official.items())}")
    expect(requests, "the relay sent nothing")
    for index, request in enumerate(requests):
        problems.extend(wrong(request["body"], request["model"], f"request {index}: {request['model']}"))
    print(f"{len(regions)} regions and {len(requests)} requests of the relay were compared with the SDK's")


def check_the_check():
    """What finds nothing wrong with anything would be worth nothing."""
    query = {"interval": 5, "order": "ASC", "paging": {"pageSize": True, "page": 1}, "segmentFilters": [{"type": None}]}
    found = wrong(query, "ConversationQuery", "query")
    expect(len(found) == 5, f"only this was noticed: {found}")
    expect(not is_time("2026-03-02") and not is_time("yesterday"), "any text passes for a time")


given = json.load(sys.stdin)
check_the_check()
check_answers(given)
check_relay(given)
sys.exit("\n".join(problems) or None)
