//! Hundreds of events that died in three ways: each kind is found, shown, counted and brought back
//! alone.

use std::time::Duration;

use local::genesys::Webhook;
use tokio::time::sleep;

use super::*;

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

/// 250 events of all three kinds, mixed.
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
async fn after_an_outage_each_kind_of_dead_letter_is_found_and_brought_back_alone() -> Result<()> {
    let relay = Relay::start(Behaviour::script(refuse), &TWO_ATTEMPTS).await?;
    let mut sent = send_wave(&relay, 1).await?;
    // The list is ordered by milliseconds.
    sleep(Duration::from_millis(20)).await;
    let between = Timestamp::now();
    sleep(Duration::from_millis(20)).await;
    sent.extend(send_wave(&relay, 2).await?);
    relay.until_dead(500).await?;
    // On a busy machine a message can lie in the queue twice, while another has yet to come.
    wait::until("all are listed", || async {
        Ok((list(&relay, json!({}), 1000).await?.len() == 500).then_some(()))
    })
    .await?;
    let requests_before = relay.target.requests().len();

    // What may not receive does not: whatever is read until it may again comes from the table.
    let role = relay.stack.role("ReplayRole").await?;
    role.take_away("sqs:ReceiveMessage").await?;
    list_by_filters(&relay, &sent, between).await?;
    show_each_kind(&relay, &sent).await?;
    count_by_filters(&relay, &sent, between).await?;
    role.restore().await?;
    let counts = relay.stack.queue_counts().await?;
    assert_eq!(
        (counts.dead_letters.visible, counts.dead_letters.in_flight),
        (500, 0),
        "nothing was received"
    );

    relay.target.behave(Behaviour::Fine);
    let request = json!({
        "action": "replay", "filter": { "statusCode": 404 }, "why": "the orders are there now", "by": "an operator",
    });
    let answer = relay.replay(request.clone()).await?;
    assert_eq!(
        (&answer["matched"], &answer["replayed"]),
        (&160.into(), &160.into()),
        "{answer}"
    );
    assert_eq!(
        (&answer["skipped"], &answer["remaining"]),
        (&340.into(), &340.into()),
        "{answer}"
    );
    assert_eq!(
        (&answer["complete"], &answer["failures"]),
        (&true.into(), &0.into()),
        "{answer}"
    );
    relay.until_dead(340).await?;
    assert_eq!(
        relay.target.requests().len() - requests_before,
        160,
        "just these, and each once"
    );
    let deliveries = relay.deliveries();
    let delivered: BTreeSet<_> = deliveries.keys().map(String::as_str).collect();
    assert_eq!(delivered, those(&sent, |sent| sent.kind == MISSING));
    assert_eq!(
        ids(&list(&relay, json!({}), 200).await?),
        those(&sent, |sent| sent.kind != MISSING)
    );

    let again = relay.replay(request).await?;
    assert_eq!(
        (&again["matched"], &again["replayed"]),
        (&0.into(), &0.into()),
        "{again}"
    );
    assert_eq!(
        (&again["remaining"], &again["complete"]),
        (&340.into(), &true.into()),
        "{again}"
    );
    let one = sent
        .iter()
        .find(|sent| sent.kind == MISSING)
        .context("one")?;
    let shown = relay.show(&one.id).await?;
    assert_eq!(
        (&shown["state"], &shown["replays"]),
        (&"DELIVERED".into(), &1.into()),
        "{shown}"
    );
    let act = &shown["history"][0];
    assert_eq!(
        (&act["action"], &act["by"]),
        (&"replay".into(), &"an operator".into()),
        "{shown}"
    );
    assert_eq!(act["why"], "the orders are there now", "{shown}");
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
        let place = |item: &Value| -> Option<(Timestamp, String)> {
            Some((
                item["receivedAt"].as_str()?.parse().ok()?,
                item["eventId"].as_str()?.to_owned(),
            ))
        };
        let places: Vec<_> = items
            .iter()
            .map(|item| place(item).context("a place"))
            .collect::<Result<_>>()?;
        assert!(places.is_sorted(), "{filter}: oldest first");
        for item in &items {
            let event = sent
                .iter()
                .find(|sent| item["eventId"] == sent.id)
                .context("a known event")?;
            assert_eq!(
                (&item["statusCode"], &item["reason"]),
                (&event.kind.status.into(), &event.kind.reason.into())
            );
            assert_eq!(item["webhookId"], event.kind.webhook_id);
            assert_eq!(
                item["attempts"],
                if event.kind == UNAVAILABLE { 2 } else { 1 },
                "{item}"
            );
        }
    }
    Ok(())
}

async fn show_each_kind(relay: &Relay, sent: &[Sent]) -> Result<()> {
    for event in KINDS
        .iter()
        .filter_map(|kind| sent.iter().find(|sent| sent.kind == *kind))
    {
        let shown = relay.show(&event.id).await?;
        let kind = event.kind;
        for (field, value) in [
            ("state", json!("DEAD")),
            ("reason", json!(kind.reason)),
            ("statusCode", json!(kind.status)),
            ("source", json!("webhook")),
            ("webhookId", json!(kind.webhook_id)),
            ("webhookName", json!("orders")),
            ("conversationId", json!("conversation-1000")),
            ("contentType", json!("application/json")),
            ("body", json!(String::from_utf8(event.body.clone())?)),
            ("replays", json!(0)),
            ("history", json!([])),
        ] {
            assert_eq!(shown[field], value, "{field} of {shown}");
        }
        assert_eq!(shown["target"], relay.target.url(), "{shown}");
        assert!(
            shown["headers"]["x-hub-signature-256"].is_string(),
            "{shown}"
        );
        assert!(
            shown["error"]
                .as_str()
                .is_some_and(|error| error.contains(&kind.status.to_string())),
            "{shown}"
        );
        let attempts = shown["attempts"].as_array().context("attempts")?;
        assert_eq!(
            attempts.len(),
            if kind == UNAVAILABLE { 2 } else { 1 },
            "{shown}"
        );
        for attempt in attempts {
            assert_eq!(
                (&attempt["statusCode"], &attempt["response"]),
                (&kind.status.into(), &kind.answer.into())
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
    for (filter, wanted) in filters(between)
        .into_iter()
        .filter(|(filter, _)| *filter != json!({}))
    {
        let answer = relay
            .replay(json!({ "action": "replay", "filter": filter, "dryRun": true }))
            .await?;
        let expected = those(sent, wanted);
        assert_eq!(
            (&answer["matched"], &answer["dryRun"]),
            (&expected.len().into(), &true.into()),
            "{answer}"
        );
        assert_eq!(
            (&answer["replayed"], &answer["remaining"]),
            (&0.into(), &500.into()),
            "{answer}"
        );
        let listed = answer["items"]
            .as_array()
            .map(Vec::as_slice)
            .unwrap_or_default();
        assert_eq!(listed.len(), expected.len().min(100), "{answer}");
        assert!(ids(listed).is_subset(&expected), "{answer}");
    }
    Ok(())
}
