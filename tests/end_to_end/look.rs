//! People who may look and not act: IAM decides, and the audit log tells them apart.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, bail, ensure};
use aws_sdk_lambda::error::ProvideErrorMetadata as _;
use aws_sdk_lambda::primitives::Blob;
use local::clients::{self, Keys};
use local::stack::{Function, FunctionError};
use local::target::{Answer, Behaviour, ReceivedRequest};
use serde_json::{Value, json};

use crate::order::{message, text_of};
use crate::relay::{Item, Relay, assert_has};

/// It must be encoded in a path.
const CONVERSATION: &str = "a chat 1";
const ENCODED: &str = "a%20chat%201";

const PARAMETERS: [(&str, &str); 2] = [("Breaker", "on"), ("JournalDays", "30")];

/// Person with a key pair.
struct Person<'a> {
    relay: &'a Relay,
    keys: Keys,
    lambda: aws_sdk_lambda::Client,
}

impl<'a> Person<'a> {
    async fn with(relay: &'a Relay, name: &str, policies: &[&str]) -> Result<Self> {
        let keys = relay.stack.user(name, policies).await?;
        let config = clients::config(&relay.stack.endpoint(), &keys).await;
        let lambda = aws_sdk_lambda::Client::new(&config);
        Ok(Self {
            relay,
            keys,
            lambda,
        })
    }

    /// Invokes a function; `None` where IAM does not allow it.
    async fn invoke(
        &self,
        function: Function,
        request: &Value,
    ) -> Result<Option<Result<Value, FunctionError>>> {
        let invoke = self.lambda.invoke();
        let invoke = invoke.function_name(self.relay.stack.function_name(function)?);
        let output = match invoke.payload(Blob::new(request.to_string())).send().await {
            Ok(output) => output,
            Err(error) if error.code() == Some("AccessDeniedException") => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let answer = serde_json::from_slice(output.payload().context("an answer")?.as_ref())?;
        Ok(Some(match output.function_error() {
            Some(_) => Err(FunctionError(answer)),
            None => Ok(answer),
        }))
    }

    async fn look(&self, request: &Value) -> Result<Value> {
        let answer = self.invoke(Function::Look, request).await?;
        Ok(answer.with_context(|| format!("refused: {request}"))??)
    }

    async fn get(&self, path: &str) -> Result<Value> {
        let answer = self
            .relay
            .stack
            .call_api_as(&self.keys, "GET", path)
            .await?;
        ensure!(answer.status == 200, "{path}: {answer:?}");
        Ok(answer.body)
    }
}

/// Refuses each second message of the conversation.
fn refuse_some(request: &ReceivedRequest) -> Answer {
    let is_refused = text_of(request).ends_with(['1', '3']);
    Answer::status(if is_refused { 404 } else { 200 })
}

/// All that a request could change: items, numbers of messages, and deliveries.
async fn state(relay: &Relay) -> Result<(BTreeMap<String, Item>, [u32; 3], usize)> {
    let counts = relay.stack.queue_counts().await?;
    let journal = relay.stack.count(relay.stack.output("JournalQueueUrl")?);
    let counts = [
        counts.events.total(),
        counts.dead_letters.visible,
        journal.await?.total(),
    ];
    Ok((relay.items().await?, counts, relay.target.requests().len()))
}

/// Requests that change something, of replay and of other functions.
fn acting(id: &str) -> Vec<(Function, Value)> {
    let why = "a mistake";
    let replay = [
        json!({ "action": "replay", "all": true }),
        json!({ "action": "replay", "eventIds": [id] }),
        json!({ "action": "replay", "filter": { "statusCode": 404 }, "runId": "act-1" }),
        json!({ "action": "cancel" }),
        json!({ "action": "cancel", "runId": "look-at-me" }),
        json!({ "action": "reconcile" }),
        json!({ "action": "archive", "olderThanDays": 0 }),
        json!({ "action": "restore", "key": "dead-letters/2026/01/15/a/part-0001.jsonl.gz" }),
        json!({ "action": "discard", "eventIds": [id], "why": why }),
        json!({ "action": "journal", "by": "schedule" }),
        json!({ "action": "resend", "eventIds": [id], "why": why, "runId": "act-2" }),
        json!({ "action": "erase", "eventIds": [id], "why": why }),
        json!({ "action": "erase", "conversationId": CONVERSATION, "why": why, "runId": "act-3" }),
    ];
    let breaker = ["run", "open", "close", "automatic"].map(|action| json!({ "action": action }));
    let replay = replay
        .map(|request| (Function::Replay, request))
        .into_iter();
    replay
        .chain(breaker.map(|request| (Function::Breaker, request)))
        .chain([(Function::Recovery, json!({}))])
        .collect()
}

#[tokio::test]
async fn who_may_look_reads_everything_and_changes_nothing() -> Result<()> {
    let relay = Relay::start(Behaviour::script(refuse_some), &PARAMETERS).await?;
    let events = (0..5).map(|number| message(CONVERSATION, number));
    let mut ids = Vec::new();
    for event in events.chain([message("another chat", 0)]) {
        ids.push(relay.accept(&event).await?);
    }
    relay.until_dead(2).await?;
    let run = json!({ "action": "archive", "olderThanDays": 13, "runId": "look-at-me" });
    relay.complete_run(&run).await?;
    relay.replay(json!({ "action": "journal" })).await?;

    let person = Person::with(&relay, "auditor", &["LookPolicyArn"]).await?;
    let before = state(&relay).await?;
    everything_can_be_read(&person, &ids).await?;
    nothing_can_be_changed(&person, &ids[1]).await?;
    assert_eq!(state(&relay).await?, before);
    looks_stand_in_the_audit_log(&person, &ids).await?;
    acts_stand_in_the_audit_log(&relay, &ids).await
}

async fn everything_can_be_read(person: &Person<'_>, ids: &[String]) -> Result<()> {
    let by = "an auditor";
    let filter = json!({ "conversationId": CONVERSATION });
    let show = json!({ "action": "show", "eventId": ids[1], "by": by });
    let list = json!({ "action": "list", "conversationId": CONVERSATION, "by": by });
    let conversation = json!({ "action": "conversation", "id": CONVERSATION, "by": by });
    for (request, expected) in [
        (
            json!({ "action": "status", "by": by }),
            json!({ "/deadLetters/visible": 2 }),
        ),
        (
            json!({ "action": "status", "runId": "look-at-me", "by": by }),
            json!({ "/background/state": "ended" }),
        ),
        (
            list,
            json!({ "count": 2, "/items/0/eventId": ids[1], "/items/1/eventId": ids[3] }),
        ),
        (
            show,
            json!({ "state": "DEAD", "conversationId": CONVERSATION }),
        ),
        (
            conversation,
            json!({ "id": CONVERSATION, "count": 5, "next": null }),
        ),
        (
            json!({ "action": "replay", "filter": filter, "dryRun": true, "by": by }),
            json!({ "matched": 2, "dryRun": true }),
        ),
        (
            json!({ "action": "resend", "filter": filter, "dryRun": true, "by": by }),
            json!({ "matched": 3, "dryRun": true, "notYetJournalled": 0 }),
        ),
    ] {
        let shown = person
            .look(&request)
            .await
            .with_context(|| request.to_string())?;
        assert_has(&shown, json!({ "action": request["action"] }));
        assert_has(&shown, expected);
    }
    let shown = person.get(&format!("/dlq/{}", ids[1])).await?;
    assert!(
        shown["body"]
            .as_str()
            .is_some_and(|body| body.contains(CONVERSATION)),
        "{shown}"
    );
    assert_has(
        &person.get("/dlq?statusCode=404").await?,
        json!({ "count": 2 }),
    );
    pages_of_a_conversation_have_all_events(person, ids).await
}

async fn pages_of_a_conversation_have_all_events(
    person: &Person<'_>,
    ids: &[String],
) -> Result<()> {
    let (mut found, mut query) = (Vec::new(), "limit=2".to_owned());
    loop {
        let page = person
            .get(&format!("/conversations/{ENCODED}?{query}"))
            .await?;
        let events = page["events"].as_array().context("events")?;
        assert_has(&page, json!({ "id": CONVERSATION, "count": events.len() }));
        for event in events {
            ensure!(event["body"].is_null(), "with a body: {event}");
            found.push((event["eventId"].clone(), event["state"].clone()));
        }
        match page["next"].as_str() {
            Some(next) => query = format!("limit=2&next={next}"),
            None => break,
        }
        ensure!(found.len() <= ids.len(), "pages without an end: {found:?}");
    }
    let states = ["DELIVERED", "DEAD", "DELIVERED", "DEAD", "DELIVERED"];
    let expected = ids.iter().zip(states);
    let expected: Vec<_> = expected
        .map(|(id, state)| (json!(id), json!(state)))
        .collect();
    assert_eq!(found, expected, "oldest first");
    let relay = person.relay;
    let unsigned = relay
        .stack
        .call_api_unsigned("GET", "/conversations/a")
        .await?;
    assert_eq!(unsigned.status, 403, "{unsigned:?}");
    let wrong = relay
        .stack
        .call_api_as(&person.keys, "GET", "/conversations/a?limit=0");
    let wrong = wrong.await?;
    assert_eq!(
        (wrong.status, &wrong.body["parameter"]),
        (400, &json!("limit")),
        "{wrong:?}"
    );
    Ok(())
}

async fn nothing_can_be_changed(person: &Person<'_>, id: &str) -> Result<()> {
    let replay = person.relay.stack.function_name(Function::Replay)?;
    for (function, request) in acting(id) {
        let answer = person.invoke(function, &request).await?;
        ensure!(
            answer.is_none(),
            "IAM allows {function} {request}: {answer:?}"
        );
        if function != Function::Replay {
            continue;
        }
        let Some(Err(error)) = person.invoke(Function::Look, &request).await? else {
            bail!("look carries out {request}");
        };
        ensure!(error.0["errorType"] == "NotAllowed", "{request}: {error}");
        ensure!(
            error.to_string().contains(replay),
            "{error} does not name {replay}"
        );
    }
    let status = json!({ "action": "status" });
    let answer = person.invoke(Function::Replay, &status).await?;
    ensure!(answer.is_none(), "IAM allows to invoke replay: {answer:?}");
    let retry = format!("/dlq/{id}/retry");
    let answer = person
        .relay
        .stack
        .call_api_as(&person.keys, "POST", &retry)
        .await?;
    ensure!(answer.status == 403, "{answer:?}");
    Ok(())
}

/// Lines of the audit log of a function about an action.
async fn audit_lines(relay: &Relay, function: Function, action: &str) -> Result<Vec<Value>> {
    let mut lines = relay.log(function).await?;
    lines.retain(|line| line["audit"] == action);
    Ok(lines)
}

/// Checks that each line names an invocation of its own that the function has logged.
async fn check_request_ids(relay: &Relay, function: Function, lines: &[Value]) -> Result<()> {
    let log = relay.log(function).await?;
    for line in lines {
        let id = line["request_id"]
            .as_str()
            .with_context(|| line.to_string())?;
        let start = format!("START RequestId: {id}");
        let is_known = |line: &Value| line.as_str().is_some_and(|line| line.starts_with(&start));
        ensure!(
            log.iter().any(is_known),
            "no invocation has the id of {line}"
        );
    }
    Ok(())
}

async fn looks_stand_in_the_audit_log(person: &Person<'_>, ids: &[String]) -> Result<()> {
    let relay = person.relay;
    for (action, field, value) in [
        ("show", "event_id", json!(ids[1])),
        ("list", "", Value::Null),
        ("conversation", "conversation_id", json!(CONVERSATION)),
    ] {
        let is_it = |line: &Value| line["audit"] == action;
        // One of them over HTTP.
        relay.until_logged(Function::Look, 2, action, is_it).await?;
        let lines = audit_lines(relay, Function::Look, action).await?;
        check_request_ids(relay, Function::Look, &lines).await?;
        let (direct, http): (Vec<_>, Vec<_>) =
            lines.iter().partition(|line| line["caller"].is_null());
        ensure!(!direct.is_empty() && !http.is_empty(), "{lines:?}");
        for line in direct {
            let said = json!({ "said_by": "an auditor", "api_request_id": null });
            assert_has(line, said);
        }
        for line in http {
            let caller = line["caller"].as_str().unwrap_or_default();
            ensure!(caller.ends_with(":user/auditor"), "{line}");
            // The access log has the same caller under this id.
            ensure!(line["api_request_id"].is_string(), "{line}");
            ensure!(line["said_by"].is_null(), "{line}");
        }
        let is_named = |line: &Value| field.is_empty() || line[field] == value;
        ensure!(
            lines.iter().all(is_named),
            "{lines:?} without {field} {value}"
        );
    }
    Ok(())
}

async fn acts_stand_in_the_audit_log(relay: &Relay, ids: &[String]) -> Result<()> {
    let policies = ["LookPolicyArn", "ActPolicyArn"];
    let person = Person::with(relay, "operator", &policies).await?;
    relay.target.behave(Behaviour::Fine);
    let retry = format!("/dlq/{}/retry", ids[1]);
    let answer = relay
        .stack
        .call_api_as(&person.keys, "POST", &retry)
        .await?;
    ensure!(answer.status == 200, "{answer:?}");
    let request = json!({
        "action": "replay", "eventIds": [ids[3]], "by": "night shift", "why": "the route is back",
    });
    let answer = person.invoke(Function::Replay, &request).await?;
    let answer = answer.context("refused")??;
    assert_has(&answer, json!({ "replayed": 1 }));
    relay.until_empty().await?;

    let is_it = |line: &Value| line["audit"] == "replay" && line["event_id"].is_string();
    relay
        .until_logged(Function::Replay, 2, "both replays", is_it)
        .await?;
    let lines = audit_lines(relay, Function::Replay, "replay").await?;
    check_request_ids(relay, Function::Replay, &lines).await?;
    let of_event = |id: &String| {
        let mut lines = lines.iter();
        let line = lines.find(|line| line["event_id"] == **id);
        line.with_context(|| format!("no audit line of {id}: {lines:?}"))
    };
    let over_http = of_event(&ids[1])?;
    let caller = over_http["caller"].as_str().unwrap_or_default();
    ensure!(caller.ends_with(":user/operator"), "{over_http}");
    ensure!(over_http["said_by"].is_null(), "{over_http}");
    let direct = of_event(&ids[3])?;
    let said = json!({ "said_by": "night shift", "why": "the route is back", "caller": null });
    assert_has(direct, said);
    let history = async |id: &String| {
        let mut shown = relay.show(id).await?;
        anyhow::Ok(shown["history"][0].take())
    };
    assert_has(&history(&ids[1]).await?, json!({ "by": caller }));
    assert_has(&history(&ids[3]).await?, json!({ "by": "night shift" }));
    Ok(())
}
