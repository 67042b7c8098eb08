//! The HTTP API over fakes, from the event of API Gateway to the answer.

use std::time::Duration;

use genesys_relay::clock::Clock as _;
use genesys_relay::events_table::{EventsTable as _, Written};
use genesys_relay::message::Message;
use genesys_relay::queue::{
    Countable, Depth, QueueError, ReceiptHandle, Received, Receiver, Redrive as _, Sender, VisibilityTimeout,
};
use genesys_relay::reason::ReasonKind;
use genesys_relay::record::{Attempt, Claim, ClaimRequest, Claiming, Context, Death, REPLAY_CEILING};
use genesys_relay::replay::Request;
use genesys_relay::testing::{FakeClock, FakeQueue};
use serde_json::{Map, Value, json};
use tokio::time::{Instant, sleep};
use yaml_rust2::{Yaml, YamlLoader};

use super::ANSWER_WITHIN;
use crate::testing::{Fakes, bury, function, function_over, id_of, invoke, letter_of, refused, sample};

const OPERATOR: &str = "arn:aws:sts::123456789012:assumed-role/Operators/an-operator";

/// What API Gateway would send to the caller.
#[derive(Debug)]
struct Answer {
    status: u64,
    headers: Map<String, Value>,
    body: Value,
}

impl Answer {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(Value::as_str).unwrap_or_default()
    }
}

async fn send<D>(function: &Fakes<D>, event: Value) -> Answer
where
    D: Sender + Receiver + Countable,
{
    let mut reply = invoke(function, event.clone()).await.unwrap_or_else(|error| panic!("{event}: {error:?}"));
    let Value::Object(headers) = reply["headers"].take() else { panic!("no headers: {reply}") };
    let status = reply["statusCode"].as_u64().expect("a status");
    let body = serde_json::from_str(reply["body"].as_str().expect("a body")).expect("JSON");
    let answer = Answer { status, headers, body };
    let kind = if status < 300 { "application/json" } else { "application/problem+json" };
    assert_eq!((answer.header("content-type"), answer.header("cache-control")), (kind, "no-store"), "{event}");
    if status >= 300 {
        assert_eq!(
            (&answer.body["type"], &answer.body["status"]),
            (&json!("about:blank"), &json!(status)),
            "{answer:?}"
        );
        assert!(answer.body["detail"].as_str().is_some_and(|detail| detail.len() > 10), "{answer:?}");
        let again = !answer.header("retry-after").is_empty();
        assert_eq!(again, status == 503, "{answer:?}");
    }
    answer
}

fn event(method: &str, path: &str, query: &str) -> Value {
    let mut event = sample("replay-http-list");
    event["rawPath"] = path.into();
    event["rawQueryString"] = query.into();
    event["requestContext"]["http"]["method"] = method.into();
    event
}

fn retry_of(message: &Message) -> Value {
    event("POST", &format!("/dlq/{}/retry", id_of(message)), "")
}

fn letter(name: u32) -> Message {
    letter_of_webhook("orders", name)
}

fn letter_of_webhook(webhook: &str, name: u32) -> Message {
    let body = json!({ "webhookId": webhook, "payload": { "name": name }, "timestamp": "2026-01-15T12:00:00Z" });
    refused(&body.to_string())
}

#[tokio::test(start_paused = true)]
async fn the_samples_list_show_and_retry() {
    let letter = letter_of("ingest-webhook-envelope");
    for retry in ["replay-http-retry", "replay-http-retry-base64"] {
        let function = function();
        bury(&function, [letter.clone(), letter_of("ingest-open-messaging-text")]).await;

        let list = send(&function, sample("replay-http-list")).await;
        assert_eq!((list.status, &list.body["count"], &list.body["next"]), (200, &json!(1), &Value::Null), "{list:?}");
        assert_eq!(list.body["items"][0]["eventId"], json!(id_of(&letter)));

        let shown = send(&function, sample("replay-http-show")).await;
        assert_eq!((shown.status, &shown.body["state"]), (200, &json!("DEAD")), "{shown:?}");
        assert_eq!(shown.body["body"], json!(letter.body));

        let retried = send(&function, sample(retry)).await;
        let expected = json!({ "status": "retried", "eventId": id_of(&letter) });
        assert_eq!((retried.status, &retried.body), (200, &expected), "{retried:?}");
        let [sent] = &function.replay.events.messages()[..] else { panic!("one message") };
        assert_eq!(sent.body, letter.body);

        let shown = send(&function, sample("replay-http-show")).await;
        let act = &shown.body["history"][1];
        assert_eq!((&act["by"], &act["why"]), (&json!(OPERATOR), &json!("the order is there now")), "{shown:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_caller_without_a_name_is_recorded_as_http() {
    let function = function();
    bury(&function, [letter(1)]).await;
    let mut event = retry_of(&letter(1));
    event["requestContext"]["authorizer"] = Value::Null;
    assert_eq!(send(&function, event).await.status, 200);
    assert_eq!(function.replay.table.only_record().history[1].by, "http");
}

#[tokio::test(start_paused = true)]
async fn a_list_goes_on_where_the_page_before_ended() {
    let function = function();
    bury(&function, (0..5).map(letter)).await;
    let (mut ids, mut pages, mut query) = (Vec::new(), 0, "limit=2".to_owned());
    loop {
        let page = send(&function, event("GET", "/dlq", &query)).await;
        assert_eq!(page.status, 200, "{page:?}");
        let items = page.body["items"].as_array().expect("items");
        assert!(items.len() <= 2 && page.body["count"] == items.len(), "{page:?}");
        ids.extend(items.iter().map(|item| item["eventId"].clone()));
        pages += 1;
        let Some(next) = page.body["next"].as_str() else { break };
        query = format!("limit=2&next={next}");
    }
    let expected: Vec<Value> = (0..5).map(|name| json!(id_of(&letter(name)))).collect();
    assert_eq!((ids, pages), (expected, 3), "oldest first");
}

#[tokio::test(start_paused = true)]
async fn every_parameter_selects() {
    let function = function();
    bury(&function, [letter_of_webhook("a b+c", 1), letter_of_webhook("d", 2), refused(r#"{"hello":1}"#)]).await;
    for (query, count) in [
        ("", 3),
        ("&&", 3),
        ("source=webhook", 2),
        ("source=eventbridge", 0),
        ("reason=permanent", 3),
        ("reason=unknown", 0),
        ("webhookId=d", 1),
        ("webhookId=a%20b%2Bc", 1),
        ("webhookId=a+b%2bc", 1),
        ("webhookId=", 0),
        ("statusCode=404&source=generic", 1),
        ("statusCode=405", 0),
        ("since=2026-01-15T13%3A00%3A00%2B01%3A00", 3),
        ("since=2026-01-15T12:00:01Z", 2),
        ("until=2026-01-15T12:00:01Z", 1),
        ("since=2026-01-16T00:00:00Z&until=2026-01-15T00:00:00Z", 0),
        ("limit=1", 1),
    ] {
        let list = send(&function, event("GET", "/dlq", query)).await;
        assert_eq!((list.status, &list.body["count"]), (200, &json!(count)), "{query}: {list:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_parameter_that_is_not_understood_is_named() {
    let function = function();
    for (query, parameter) in [
        ("colour=red", "colour"),
        ("action=discard", "action"),
        ("Limit=1", "Limit"),
        ("limit=0", "limit"),
        ("limit=1001", "limit"),
        ("limit=-1", "limit"),
        ("limit=%2B1", "limit"),
        ("limit=01", "limit"),
        ("limit=1.0", "limit"),
        ("limit=", "limit"),
        ("limit", "limit"),
        ("limit=99999999999999999999", "limit"),
        ("limit=1&limit=1", "limit"),
        ("source=fax", "source"),
        ("source=generic,webhook", "source"),
        ("source=generic&source=webhook", "source"),
        ("sourc%65=generic&source=generic", "source"),
        ("reason=", "reason"),
        ("statusCode=70000", "statusCode"),
        ("statusCode=four", "statusCode"),
        ("since=yesterday", "since"),
        ("since=2026-01-15T13:00:00+01:00", "since"),
        ("until=2026-13-01T00:00:00Z", "until"),
        ("next=page-two", "next"),
        ("next=", "next"),
        ("webhookId=%", "webhookId"),
        ("webhookId=%zz", "webhookId"),
        ("webhookId=%+1", "webhookId"),
        ("webhookId=%ff", "webhookId"),
        ("=", ""),
    ] {
        let answer = send(&function, event("GET", "/dlq", query)).await;
        assert_eq!((answer.status, &answer.body["parameter"]), (400, &json!(parameter)), "{query}: {answer:?}");
    }
    let answer = send(&function, sample("replay-http-bad-parameter")).await;
    assert_eq!((answer.status, &answer.body["parameter"]), (400, &json!("limit")), "{answer:?}");
    for (method, path) in [("GET", "/dlq/an-event"), ("POST", "/dlq/an-event/retry")] {
        let answer = send(&function, event(method, path, "force=true")).await;
        assert_eq!((answer.status, &answer.body["parameter"]), (400, &json!("force")), "{path}: {answer:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_id_that_cannot_be_one_is_refused() {
    let too_long = "x".repeat(81);
    for id in ["a b", "a%20b", "%", "%C3%BC", "%ff", "ü", "a.b", "body#a", &too_long] {
        for (method, path) in [("GET", format!("/dlq/{id}")), ("POST", format!("/dlq/{id}/retry"))] {
            let answer = send(&function(), event(method, &path, "")).await;
            assert_eq!((answer.status, &answer.body["parameter"]), (400, &json!("eventId")), "{path}: {answer:?}");
        }
    }
    let answer = send(&function(), event("GET", "/dlq/%61n%2Devent", "")).await;
    assert_eq!(answer.status, 404, "an id that is encoded without need is an id");
}

#[tokio::test(start_paused = true)]
async fn a_body_that_is_not_understood_is_refused_and_nothing_is_done() {
    let function = function();
    bury(&function, [letter(1)]).await;
    for (body, base64, parameter) in [
        (json!("no JSON"), false, "body"),
        (json!("null"), false, "body"),
        (json!("[]"), false, "body"),
        (json!(" "), false, "body"),
        (json!("{\"why\":\"\u{0}\"}"), false, "body"),
        (json!("{\"why\":\"an end is missing"), false, "body"),
        (json!("no base64"), true, "body"),
        (json!("/w=="), true, "body"),
        (json!("{\"why\":7}"), false, "why"),
        (json!("{\"why\":\" \"}"), false, "why"),
        (json!("{\"why\":\"two\\nlines\"}"), false, "why"),
        (json!(format!("{{\"why\":\"{}\"}}", "x".repeat(501))), false, "why"),
        (json!("{\"force\":true}"), false, "force"),
        (json!("{\"by\":\"somebody else\"}"), false, "by"),
        (json!("{\"all\":true,\"why\":\"all of them\"}"), false, "all"),
        (json!("{\"action\":\"discard\"}"), false, "action"),
    ] {
        let mut event = retry_of(&letter(1));
        event["body"] = body.clone();
        event["isBase64Encoded"] = base64.into();
        let answer = send(&function, event).await;
        assert_eq!((answer.status, &answer.body["parameter"]), (400, &json!(parameter)), "{body}: {answer:?}");
    }
    assert!(function.replay.events.messages().is_empty());
}

#[tokio::test(start_paused = true)]
async fn no_body_and_an_empty_one_are_the_same() {
    for body in [Value::Null, json!(""), json!("{}"), json!("{\"why\":null}")] {
        let function = function();
        bury(&function, [letter(1)]).await;
        let mut event = retry_of(&letter(1));
        event["body"] = body.clone();
        let answer = send(&function, event).await;
        assert_eq!(answer.status, 200, "{body}: {answer:?}");
        assert_eq!(function.replay.table.only_record().history[0].why, None);
    }
}

#[tokio::test(start_paused = true)]
async fn other_paths_and_methods_are_refused() {
    for (method, path, status, allow) in [
        ("GET", "/", 404, ""),
        ("GET", "", 404, ""),
        ("GET", "/webhook/genesys", 404, ""),
        ("GET", "/dlq/an-event/retry/now", 404, ""),
        ("POST", "/dlq/an-event/replay", 404, ""),
        ("DELETE", "/dlq", 405, "GET"),
        ("POST", "/dlq", 405, "GET"),
        ("PUT", "/dlq/an-event", 405, "GET"),
        ("GET", "/dlq/an-event/retry", 405, "POST"),
        ("get", "/dlq", 405, "GET"),
    ] {
        let answer = send(&function(), event(method, path, "")).await;
        assert_eq!((answer.status, answer.header("allow")), (status, allow), "{method} {path}: {answer:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_event_of_another_form_is_a_bad_request() {
    let mut event = sample("replay-http-list");
    event["rawPath"] = json!(7);
    assert_eq!(send(&function(), event).await.status, 400);
    let event = json!({ "requestContext": { "http": {} } });
    assert_eq!(send(&function(), event).await.status, 400);
}

/// Claims an event as the processor does.
async fn claim(function: &Fakes, message: &Message) -> Claim {
    let event = message.to_event(FakeClock.now()).expect("readable");
    let now = FakeClock.now();
    let lease_until = now + Duration::from_mins(1);
    let request = ClaimRequest { event: &event, message_id: "a-message", last: false, lease_until, now };
    let found = function.replay.table.get(&event.id).await.expect("read");
    let Claiming::Free(claim) = Claim::on(found.as_ref(), request) else { panic!("{found:?}") };
    assert_eq!(function.replay.table.write(claim.transition()).await.expect("written"), Written::Done);
    claim
}

fn attempt() -> Attempt {
    Attempt { at: FakeClock.now(), duration_ms: Some(7), status: Some(404), error: None, response: None }
}

/// What the answer to a retry says, when it is 409.
async fn conflict(function: &Fakes) -> String {
    let answer = send(function, retry_of(&letter(1))).await;
    assert_eq!(answer.status, 409, "{answer:?}");
    assert!(function.replay.events.messages().is_empty(), "nothing is sent");
    answer.body["detail"].as_str().expect("a text").to_owned()
}

#[tokio::test(start_paused = true)]
async fn an_event_that_nobody_knows_is_not_found() {
    for event in [retry_of(&letter(1)), event("GET", "/dlq/nobody-knows-it", "")] {
        let answer = send(&function(), event).await;
        assert_eq!((answer.status, &answer.body["title"]), (404, &json!("Not Found")), "{answer:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_event_that_is_not_dead_is_a_conflict_that_says_where_it_is() {
    let function = function();
    let claimed = claim(&function, &letter(1)).await;
    assert!(conflict(&function).await.contains("being delivered"));
    let later = FakeClock.now() + Duration::from_mins(9);
    function.replay.table.write(&claimed.retrying(attempt(), later, FakeClock.now())).await.expect("written");
    assert!(conflict(&function).await.contains("next attempt"));

    let function = crate::testing::function();
    let claimed = claim(&function, &letter(1)).await;
    function.replay.table.write(&claimed.delivered(attempt())).await.expect("written");
    assert!(conflict(&function).await.contains("the target has it"));

    let function = crate::testing::function();
    bury(&function, [letter(1)]).await;
    let discard = json!({ "action": "discard", "eventIds": [id_of(&letter(1))], "why": "a test" });
    invoke(&function, discard).await.expect("discarded");
    assert!(conflict(&function).await.contains("discarded"));

    let function = crate::testing::function();
    bury(&function, [letter(1)]).await;
    invoke(&function, json!({ "action": "archive", "olderThanDays": 0 })).await.expect("archived");
    assert!(conflict(&function).await.contains(&function.replay.archive.keys()[0]));
}

#[tokio::test(start_paused = true)]
async fn what_was_replayed_too_often_needs_somebody_who_insists() {
    let function = function();
    for _ in 0..=REPLAY_CEILING {
        let claimed = claim(&function, &letter(1)).await;
        let death = Death {
            reason: ReasonKind::Permanent,
            error: "the target answered 404".to_owned(),
            status_code: Some(404),
            dead_at: FakeClock.now(),
        };
        let dead = claimed.dead(attempt(), death, None, Context::default());
        function.replay.table.write(&dead).await.expect("written");
    }
    bury(&function, [letter(1)]).await;
    assert!(conflict(&function).await.contains("\"force\": true"));
}

#[tokio::test(start_paused = true)]
async fn a_retry_waits_for_the_run_or_the_move_task_that_is_at_work() {
    let function = function();
    bury(&function, [letter(1)]).await;
    function.replay.redrive.start_move(None).await.expect("started");
    let answer = send(&function, retry_of(&letter(1))).await;
    assert_eq!(answer.status, 503, "{answer:?}");
    assert!(answer.body["detail"].as_str().is_some_and(|detail| detail.contains("move task")), "{answer:?}");

    function.replay.redrive.cancel_move("task").await.expect("cancelled");
    let run = {
        let function = Fakes::clone(&function);
        // Holds the lease for the two seconds that it waits for one more message.
        tokio::spawn(async move { invoke(&function, json!({ "action": "reconcile" })).await })
    };
    tokio::time::sleep(Duration::from_secs(1)).await;
    let answer = send(&function, retry_of(&letter(1))).await;
    assert_eq!(answer.status, 503, "{answer:?}");
    assert!(answer.body["detail"].as_str().is_some_and(|detail| detail.contains("Reconcile")), "{answer:?}");

    run.await.expect("no panic").expect("reconciled");
    assert_eq!(send(&function, retry_of(&letter(1))).await.status, 200);
}

#[tokio::test(start_paused = true)]
async fn a_message_that_is_hidden_is_there_later() {
    let function = function();
    bury(&function, [letter(1)]).await;
    let hidden_for = Duration::from_mins(5);
    function.replay.dead_letters.receive(hidden_for, Duration::ZERO).await.expect("received");
    let answer = send(&function, retry_of(&letter(1))).await;
    assert_eq!((answer.status, answer.header("retry-after")), (503, "60"), "{answer:?}");
    tokio::time::advance(hidden_for).await;
    assert_eq!(send(&function, retry_of(&letter(1))).await.status, 200);
}

#[tokio::test(start_paused = true)]
async fn while_a_queue_or_the_table_is_down_the_caller_is_asked_to_come_again() {
    let id = id_of(&letter(1));
    for event in [retry_of(&letter(1)), event("GET", "/dlq", ""), event("GET", &format!("/dlq/{id}"), "")] {
        let function = function();
        bury(&function, [letter(1)]).await;
        function.replay.table.fail();
        let answer = send(&function, event).await;
        assert_eq!(answer.status, 503, "{answer:?}");
        assert!(!answer.body.to_string().contains("made to fail"), "the cause is for the log");
    }
    for break_it in [
        (|function: &Fakes| function.replay.dead_letters.fail()) as fn(&Fakes),
        |function| function.replay.events.fail(),
        // The record can be looked at, and no more.
        |function| function.replay.table.fail_after(1, usize::MAX),
    ] {
        let function = function();
        bury(&function, [letter(1)]).await;
        break_it(&function);
        let answer = send(&function, retry_of(&letter(1))).await;
        assert_eq!(answer.status, 503, "{answer:?}");
        assert!(!answer.body.to_string().contains("made to fail"), "the cause is for the log");
    }
}

/// A dead-letter queue that takes its time.
struct Slow(FakeQueue);

impl Sender for Slow {
    async fn send(&self, message: &Message) -> Result<(), QueueError> {
        self.0.send(message).await
    }

    async fn send_all(&self, messages: &[Message]) -> Vec<Result<(), QueueError>> {
        self.0.send_all(messages).await
    }
}

impl VisibilityTimeout for Slow {
    async fn change_visibility(&self, changes: &[(ReceiptHandle, Duration)]) -> Vec<Result<(), QueueError>> {
        self.0.change_visibility(changes).await
    }
}

impl Receiver for Slow {
    async fn receive(&self, visibility: Duration, wait: Duration) -> Result<Vec<Received>, QueueError> {
        sleep(Duration::from_secs(16)).await;
        self.0.receive(visibility, wait).await
    }

    async fn delete(&self, receipts: &[ReceiptHandle]) -> Vec<Result<(), QueueError>> {
        self.0.delete(receipts).await
    }
}

impl Countable for Slow {
    async fn depth(&self) -> Result<Depth, QueueError> {
        self.0.depth().await
    }
}

/// Ten dead letters, which are received at once, and behind them the one with the number 10.
async fn with_a_slow_queue() -> Fakes<Slow> {
    let queue = FakeQueue::default();
    let function = function_over(Slow(queue.clone()), queue);
    bury(&function, (0..=10).map(letter)).await;
    function
}

#[tokio::test(start_paused = true)]
async fn a_retry_that_takes_too_long_goes_on_in_the_background() {
    let function = with_a_slow_queue().await;
    let mut event = retry_of(&letter(10));
    event["body"] = json!("{\"why\":\"it is time\"}");
    let began_at = Instant::now();
    let answer = send(&function, event).await;
    let expected = json!({ "status": "accepted", "eventId": id_of(&letter(10)) });
    assert_eq!((answer.status, &answer.body), (202, &expected), "{answer:?}");
    assert!(began_at.elapsed() <= ANSWER_WITHIN, "{:?}", began_at.elapsed());
    assert!(function.replay.events.messages().is_empty(), "not yet");

    let [request] = &function.background.requests()[..] else { panic!("one request") };
    let expected = json!({ "action": "replay", "eventIds": [id_of(&letter(10))], "by": OPERATOR, "why": "it is time" });
    assert_eq!(request, &expected);
    sleep(Duration::from_mins(1)).await;
    let report = invoke(&function, request.clone()).await.expect("carried out");
    assert_eq!(report["replayed"], 1, "{report}");
}

#[tokio::test(start_paused = true)]
async fn nothing_is_accepted_that_lambda_has_not_taken() {
    let function = with_a_slow_queue().await;
    function.background.fail();
    let answer = send(&function, retry_of(&letter(10))).await;
    assert_eq!(answer.status, 503, "{answer:?}");
    assert!(!answer.body.to_string().contains("made to fail"), "the cause is for the log");
}

#[tokio::test(start_paused = true)]
async fn an_arn_of_any_length_is_understood_in_the_background_too() {
    let function = with_a_slow_queue().await;
    let mut event = retry_of(&letter(10));
    let arn = format!("arn:aws:sts::123456789012:assumed-role/{}", "ä".repeat(600));
    event["requestContext"]["authorizer"]["iam"]["userArn"] = arn.into();
    assert_eq!(send(&function, event).await.status, 202);
    let request = function.background.requests().remove(0);
    Request::parse(request, "nobody").expect("understood");
}

#[tokio::test(start_paused = true)]
async fn every_answer_fits_whatever_the_event_holds() {
    let function = function();
    // Each of these is a text of six characters in JSON, and of seven in JSON within JSON.
    let body = "\u{1}".repeat(1024 * 1024);
    bury(&function, [refused(&body)]).await;
    let id = function.replay.table.only_record().event_id;
    let reply = invoke(&function, event("GET", &format!("/dlq/{id}"), "")).await.expect("answered");
    assert!(reply.to_string().len() < 6 * 1024 * 1024, "{}", reply.to_string().len());
    let shown: Value = serde_json::from_str(reply["body"].as_str().expect("a body")).expect("JSON");
    assert_eq!(shown["body"], Value::Null);
    assert_eq!(shown["bodyBase64"].as_str().map(str::len), Some(body.len().div_ceil(3) * 4));
}

fn document() -> Yaml {
    let path = format!("{}/../../openapi.yaml", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    YamlLoader::load_from_str(&text).expect("YAML").remove(0)
}

fn texts(yaml: &Yaml) -> Vec<&str> {
    yaml.as_vec()
        .unwrap_or_else(|| panic!("no list: {yaml:?}"))
        .iter()
        .map(|text| text.as_str().expect("a text"))
        .collect()
}

fn keys(yaml: &Yaml) -> Vec<&str> {
    let hash = yaml.as_hash().unwrap_or_else(|| panic!("no object: {yaml:?}"));
    hash.keys().map(|name| name.as_str().expect("a name")).collect()
}

#[tokio::test(start_paused = true)]
async fn the_document_has_the_parameters_of_the_list_with_their_bounds() {
    let function = function();
    let document = document();
    let mut names = Vec::new();
    for parameter in document["paths"]["/dlq"]["get"]["parameters"].as_vec().expect("parameters") {
        let name = parameter["name"].as_str().expect("a name");
        names.push(name);
        let schema = &parameter["schema"];
        let status = async |value: &str| send(&function, event("GET", "/dlq", &format!("{name}={value}"))).await.status;
        let reference = schema["$ref"].as_str().and_then(|path| path.rsplit('/').next()).unwrap_or_default();
        let words = &document["components"]["schemas"][reference]["enum"];
        for word in words.as_vec().into_iter().flatten() {
            let word = word.as_str().expect("a text");
            assert_eq!(status(word).await, 200, "{name}={word}");
        }
        if schema["type"].as_str() == Some("integer") {
            let bound = |bound: &str| schema[bound].as_i64().unwrap_or_else(|| panic!("{name} has no {bound}"));
            for (value, expected) in [
                (bound("minimum") - 1, 400),
                (bound("minimum"), 200),
                (bound("maximum"), 200),
                (bound("maximum") + 1, 400),
            ] {
                assert_eq!(status(&value.to_string()).await, expected, "{name}={value}");
            }
        }
    }
    // The parser lists the fields that it knows when it meets one that it does not.
    let answer = send(&function, event("GET", "/dlq", "unknown=1")).await;
    let known: Vec<_> = answer.body["detail"].as_str().expect("a text").split('`').skip(3).step_by(2).collect();
    assert_eq!(known, names);
}

#[tokio::test(start_paused = true)]
async fn the_document_knows_every_word_and_every_field() {
    let document = document();
    let schema = |name: &str| document["components"]["schemas"][name].clone();
    let sources = genesys_relay::event::Source::ALL.map(genesys_relay::event::Source::as_str);
    assert_eq!(texts(&schema("Source")["enum"]), sources);
    for reason in texts(&schema("Reason")["enum"]) {
        serde_json::from_value::<ReasonKind>(reason.into()).unwrap_or_else(|error| panic!("{reason}: {error}"));
    }
    let unknown = serde_json::from_value::<ReasonKind>("boredom".into()).expect_err("none").to_string();
    let known: Vec<_> = unknown.split('`').skip(3).step_by(2).collect();
    assert_eq!(texts(&schema("Reason")["enum"]), known);

    let function = function();
    bury(&function, [letter(1)]).await;
    let list = send(&function, event("GET", "/dlq", "")).await.body;
    let shown = send(&function, event("GET", &format!("/dlq/{}", id_of(&letter(1))), "")).await.body;
    for (name, value) in [("List", &list), ("DeadLetter", &list["items"][0]), ("Event", &shown)] {
        let schema = schema(name);
        let given: Vec<&str> = value.as_object().expect("an object").keys().map(String::as_str).collect();
        let described = keys(&schema["properties"]);
        assert!(given.iter().all(|field| described.contains(field)), "{name}: {given:?}");
        assert!(texts(&schema["required"]).iter().all(|field| given.contains(field)), "{name}: {given:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_document_has_every_path_and_its_answers() {
    let document = document();
    assert_eq!(document["info"]["version"].as_str(), Some(env!("CARGO_PKG_VERSION")));
    let paths = &document["paths"];
    assert_eq!(keys(paths), ["/webhook/genesys", "/dlq", "/dlq/{eventId}", "/dlq/{eventId}/retry"]);
    for path in keys(paths).into_iter().skip(1) {
        for method in ["get", "post", "put", "delete", "patch"] {
            let answer =
                send(&function(), event(&method.to_uppercase(), &path.replace("{eventId}", "an-event"), "")).await;
            let described = !paths[path][method].is_badvalue();
            assert_eq!(answer.status != 405, described, "{method} {path}: {answer:?}");
        }
    }
}
