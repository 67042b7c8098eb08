//! Events that died in three ways: each kind is found, shown, counted and brought back alone.

use std::time::Duration;

use local::genesys::Webhook;
use tokio::time::sleep;

use super::*;
use crate::relay::RETRIES;

/// Dead letters of both waves, and those of the kind that is brought back.
const ALL: usize = 108;
const BACK: usize = 32;

/// Events that die in one way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Kind {
    name: &'static str,
    status: u16,
    reason: &'static str,
    answer: &'static str,
    webhook_id: &'static str,
    in_each_wave: usize,
}

const UNAVAILABLE: Kind = Kind {
    name: "unavailable",
    status: 503,
    reason: "exhausted",
    answer: "come again later",
    webhook_id: "11111111-2222-4333-8444-555555555555",
    in_each_wave: 24,
};
const MISSING: Kind = Kind {
    name: "missing",
    status: 404,
    reason: "permanent",
    answer: "no such order",
    webhook_id: "22222222-2222-4333-8444-555555555555",
    in_each_wave: 16,
};
const INVALID: Kind = Kind {
    name: "invalid",
    status: 422,
    reason: "permanent",
    answer: "an order without lines",
    webhook_id: "11111111-2222-4333-8444-555555555555",
    in_each_wave: 14,
};
const KINDS: [Kind; 3] = [UNAVAILABLE, MISSING, INVALID];

/// Answers as the event's name asks for: nothing is wrong with all others.
fn refuse(request: &ReceivedRequest) -> Answer {
    let name = name_of(&request.body);
    let kind = KINDS.into_iter().find(|kind| name.starts_with(kind.name));
    kind.map_or(Answer::status(200), |kind| Answer {
        body: kind.answer.to_owned(),
        ..Answer::status(kind.status)
    })
}

/// An event that was accepted, to be told from others.
struct Sent {
    id: String,
    kind: Kind,
    wave: usize,
    body: Vec<u8>,
}

fn order(kind: Kind, number: usize) -> Webhook {
    let body = json!({
        "webhookId": kind.webhook_id,
        "webhookName": "orders",
        "payload": { "name": format!("{} {number}", kind.name), "conversationId": format!("conversation-{number}") },
        "timestamp": "2026-01-15T12:00:00Z",
    });
    Webhook::signed(body.to_string())
}

/// Events of all three kinds, mixed.
async fn send_wave(relay: &Relay, wave: usize) -> Result<Vec<Sent>> {
    let most = KINDS
        .map(|kind| kind.in_each_wave)
        .into_iter()
        .max()
        .unwrap_or_default();
    let numbered = |number| {
        KINDS
            .into_iter()
            .filter(move |kind| number < kind.in_each_wave)
            .map(move |kind| (kind, number))
    };
    let events: Vec<_> = (0..most).flat_map(numbered).collect();
    let webhooks: Vec<_> = events
        .iter()
        .map(|(kind, number)| order(*kind, wave * 1000 + number))
        .collect();
    let ids = relay.accept_all(webhooks.clone()).await?;
    let sent = events.into_iter().zip(webhooks).zip(ids);
    Ok(sent
        .map(|(((kind, _), webhook), id)| Sent {
            id,
            kind,
            wave,
            body: webhook.body,
        })
        .collect())
}

fn those(sent: &[Sent], wanted: impl Fn(&Sent) -> bool) -> BTreeSet<&str> {
    sent.iter()
        .filter(|sent| wanted(sent))
        .map(|sent| sent.id.as_str())
        .collect()
}

#[tokio::test]
async fn each_kind_of_dead_letter_is_found_and_replayed_alone() -> Result<()> {
    let parameters = [RETRIES[0], RETRIES[1], ("MaxReceiveCount", "2")];
    let relay = Relay::start(Behaviour::script(refuse), &parameters).await?;
    let mut sent = send_wave(&relay, 1).await?;
    // The list is ordered by milliseconds.
    sleep(Duration::from_millis(20)).await;
    let between = Timestamp::now();
    sleep(Duration::from_millis(20)).await;
    sent.extend(send_wave(&relay, 2).await?);
    relay.until_all_dead(ALL).await?;
    // On a busy machine a message can lie in the queue twice, while another has yet to come.
    wait::until("all are listed", || async {
        Ok((list(&relay, json!({}), 1000).await?.len() == ALL).then_some(()))
    })
    .await?;
    let requests_before = relay.target.requests().len();

    // Nothing can be received: all that is read comes from the table.
    let role = relay.stack.role("ReplayRole").await?;
    role.take_away("sqs:ReceiveMessage").await?;
    list_by_filters(&relay, &sent, between).await?;
    show_each_kind(&relay, &sent).await?;
    count_by_filters(&relay, &sent, between).await?;
    role.restore().await?;
    let dead = relay.stack.queue_counts().await?.dead_letters;
    assert_eq!(
        (dead.visible as usize, dead.in_flight),
        (ALL, 0),
        "nothing was received"
    );

    relay.target.behave(Behaviour::Fine);
    let (why, by) = ("the orders are there now", "an operator");
    let request =
        json!({ "action": "replay", "filter": { "statusCode": 404 }, "why": why, "by": by });
    let answer = relay.replay(request.clone()).await?;
    let expected = json!({
        "matched": BACK, "replayed": BACK, "skipped": ALL - BACK, "remaining": ALL - BACK,
        "complete": true, "failures": 0,
    });
    assert_has(&answer, expected);
    relay.until_dead(u32::try_from(ALL - BACK)?).await?;
    assert_eq!(
        relay.target.requests().len() - requests_before,
        BACK,
        "each once"
    );
    let delivered = those(&sent, |sent| sent.kind == MISSING);
    relay.assert_delivered_once(&delivered.iter().collect::<Vec<_>>());
    let left = those(&sent, |sent| sent.kind != MISSING);
    assert_eq!(ids(&list(&relay, json!({}), 200).await?), left);

    let again = json!({
        "matched": 0, "replayed": 0, "remaining": ALL - BACK, "complete": true,
    });
    assert_has(&relay.replay(request).await?, again);
    let one = delivered.first().context("one")?;
    let act = json!({ "action": "replay", "by": by, "why": why });
    let shown = relay.show(one).await?;
    assert_has(&shown, json!({ "state": "DELIVERED", "replays": 1 }));
    assert_has(&shown["history"][0], act);
    Ok(())
}

/// Expected matches of a filter.
type Wanted = Box<dyn Fn(&Sent) -> bool>;

fn filters(between: Timestamp) -> Vec<(Value, Wanted)> {
    let (first, second) = (UNAVAILABLE.webhook_id, MISSING.webhook_id);
    vec![
        (json!({}), Box::new(|_| true)),
        (
            json!({ "reason": "exhausted" }),
            Box::new(|sent| sent.kind.reason == "exhausted"),
        ),
        (
            json!({ "reason": "permanent" }),
            Box::new(|sent| sent.kind.reason == "permanent"),
        ),
        (json!({ "reason": "crashed" }), Box::new(|_| false)),
        (
            json!({ "statusCode": 404 }),
            Box::new(|sent| sent.kind.status == 404),
        ),
        (
            json!({ "webhookId": first }),
            Box::new(move |sent| sent.kind.webhook_id == first),
        ),
        (
            json!({ "webhookId": second }),
            Box::new(move |sent| sent.kind.webhook_id == second),
        ),
        (json!({ "source": "webhook" }), Box::new(|_| true)),
        (json!({ "source": "generic" }), Box::new(|_| false)),
        (json!({ "until": between }), Box::new(|sent| sent.wave == 1)),
        (json!({ "since": between }), Box::new(|sent| sent.wave == 2)),
        (
            json!({ "since": between, "until": between }),
            Box::new(|_| false),
        ),
        (
            json!({ "since": between, "reason": "permanent", "webhookId": first, "statusCode": 422 }),
            Box::new(|sent| sent.wave == 2 && sent.kind == INVALID),
        ),
    ]
}

async fn list_by_filters(relay: &Relay, sent: &[Sent], between: Timestamp) -> Result<()> {
    for (filter, wanted) in filters(between) {
        let items = list(relay, filter.clone(), 37).await?;
        let expected = those(sent, wanted);
        assert_eq!(items.len(), expected.len(), "{filter}");
        assert_eq!(ids(&items), expected, "{filter}");
        let place = |item: &Value| -> Result<(Timestamp, String)> {
            let at = item["receivedAt"].as_str().context("a time")?.parse()?;
            Ok((at, item["eventId"].to_string()))
        };
        let places: Vec<_> = items.iter().map(place).collect::<Result<_>>()?;
        assert!(places.is_sorted(), "{filter}: oldest first");
        for item in &items {
            let event = sent.iter().find(|sent| item["eventId"] == sent.id);
            let Kind {
                status,
                reason,
                webhook_id,
                ..
            } = event.context("a known event")?.kind;
            let attempts = if status == 503 { 2 } else { 1 };
            let expected = json!({
                "statusCode": status, "reason": reason, "webhookId": webhook_id, "attempts": attempts,
            });
            assert_has(item, expected);
        }
    }
    Ok(())
}

async fn show_each_kind(relay: &Relay, sent: &[Sent]) -> Result<()> {
    for kind in KINDS {
        let event = sent
            .iter()
            .find(|sent| sent.kind == kind)
            .context("an event")?;
        let shown = relay.show(&event.id).await?;
        let expected = json!({
            "state": "DEAD",
            "reason": kind.reason,
            "statusCode": kind.status,
            "source": "webhook",
            "webhookId": kind.webhook_id,
            "webhookName": "orders",
            "conversationId": "conversation-1000",
            "contentType": "application/json",
            "body": String::from_utf8(event.body.clone())?,
            "replays": 0,
            "history": [],
            "target": relay.target.url(),
        });
        assert_has(&shown, expected);
        assert!(
            shown["headers"]["x-hub-signature-256"].is_string(),
            "{shown}"
        );
        let error = shown["error"].as_str().unwrap_or_default();
        assert!(error.contains(&kind.status.to_string()), "{shown}");
        let attempts = shown["attempts"].as_array().context("attempts")?;
        assert_eq!(
            attempts.len(),
            if kind == UNAVAILABLE { 2 } else { 1 },
            "{shown}"
        );
        for attempt in attempts {
            assert_has(
                attempt,
                json!({ "statusCode": kind.status, "response": kind.answer }),
            );
            assert!(
                attempt["at"].is_string() && attempt["durationMs"].is_u64(),
                "{attempt}"
            );
        }
    }
    Ok(())
}

async fn count_by_filters(relay: &Relay, sent: &[Sent], between: Timestamp) -> Result<()> {
    for (filter, wanted) in filters(between).into_iter().skip(1) {
        let request = json!({ "action": "replay", "filter": filter, "dryRun": true });
        let answer = relay.replay(request).await?;
        let expected = those(sent, wanted);
        let counts = json!({
            "matched": expected.len(), "dryRun": true, "replayed": 0, "remaining": ALL,
        });
        assert_has(&answer, counts);
        let listed = answer["items"].as_array();
        let listed = listed.map(Vec::as_slice).unwrap_or_default();
        assert_eq!(listed.len(), expected.len().min(100), "{answer}");
        assert!(ids(listed).is_subset(&expected), "{answer}");
    }
    Ok(())
}
