//! Recovery of events that Genesys Cloud failed to deliver, under faults; events that had arrived
//! are recognised.

mod failures;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use jiff::{SignedDuration, Timestamp};
use local::genesys::Webhook;
use local::genesys_cloud::{CallFault, Endpoint, GenesysCloud};
use local::stack::Function;
use local::target::Behaviour;
use local::wait;
use serde_json::{Value, json};

use crate::relay::{Relay, assert_has};

/// Ids of the webhook and the integration that point to the relay.
pub(crate) const IDS: [&str; 2] = [WEBHOOK, INTEGRATION];

const WEBHOOK: &str = "11111111-2222-4333-8444-555555555555";
const INTEGRATION: &str = "3f1c9a52-7d0b-4e0e-9a57-2f6d1f0c8b11";

/// Events of an outage, and those of them that had arrived before it, or while Genesys Cloud had
/// already given up.
const LOST: usize = 200;
const ARRIVED: usize = 60;

/// Seconds of a run of the recovery, in tests that kill one.
const SHORT_RUN: i32 = 20;

impl Relay {
    /// Starts a relay that recovers from a Genesys Cloud of its own, by hand only.
    pub(crate) async fn recovering(source: &str) -> Result<Self> {
        let relay = Self::start(Behaviour::Fine, &[("RecoverySource", source)]).await?;
        relay.genesys.set_rate_limit(100_000);
        Ok(relay)
    }

    /// Invokes the recovery, which must succeed.
    pub(crate) async fn recover(&self, request: Value) -> Result<Value> {
        Ok(self.stack.invoke(Function::Recovery, &request).await??)
    }

    /// Invokes the recovery, which must fail with an error of this type, and returns its message.
    pub(crate) async fn recover_fails(&self, error_type: &str) -> Result<String> {
        let Err(error) = self.stack.invoke(Function::Recovery, &json!({})).await? else {
            bail!("the recovery succeeded");
        };
        ensure!(error.0["errorType"] == error_type, "{error}");
        let message = error.0["errorMessage"].as_str();
        Ok(message.unwrap_or_default().to_owned())
    }

    /// Waits until the target has had so many events, each once.
    pub(crate) async fn until_each_is_delivered_once(&self, events: usize) -> Result<()> {
        wait::until(&format!("{events} events are delivered"), || async {
            Ok((self.deliveries().len() >= events).then_some(()))
        })
        .await?;
        self.until_empty().await?;
        let mut deliveries = self.deliveries();
        ensure!(
            deliveries.len() == events,
            "{} events were delivered",
            deliveries.len()
        );
        deliveries.retain(|_, times| *times != 1);
        ensure!(
            deliveries.is_empty(),
            "delivered more than once: {deliveries:?}"
        );
        Ok(())
    }
}

/// A webhook of the tutorials' envelope, told from others by its number.
fn envelope(number: usize, time: Timestamp) -> Value {
    json!({
        "webhookId": WEBHOOK,
        "webhookName": "orders",
        "payload": {
            "number": number, "total": 12.50, "text": "Grüße 😀",
            "conversationId": format!("conversation-{}", number / 10),
        },
        "timestamp": format!("{time:.3}"),
    })
}

/// A message of Open Messaging.
pub(crate) fn message(number: usize, time: Timestamp) -> Value {
    json!({
        "id": format!("message-{number}"),
        "channel": {
            "id": INTEGRATION, "platform": "Open", "type": "Private", "messageId": format!("message-{number}"),
            "to": { "id": "customer-1", "idType": "Opaque" },
            "from": { "nickname": "An integration", "id": INTEGRATION, "idType": "Opaque" },
            "time": format!("{time:.3}"),
        },
        "type": "Text",
        "text": format!("Grüße 😀 {number}"),
        "originatingEntity": "Human",
        "direction": "Outbound",
        "conversationId": format!("conversation-{}", number / 10),
    })
}

/// Adds a failed delivery to the log, in one of the forms that a log may have a body in.
pub(crate) fn log_failed(genesys: &GenesysCloud, number: usize, time: Timestamp) {
    let body = envelope(number, time);
    let logged = match number % 3 {
        0 => body,
        1 => json!(body.to_string()),
        _ => json!(serde_json::to_string_pretty(&body).unwrap_or_default()),
    };
    genesys.add_delivery(json!({
        "id": format!("delivery-{number}"), "webhookId": WEBHOOK, "status": "failed", "httpStatusCode": 503,
        "body": logged, "headers": { "Content-Type": "application/json", "Authorization": "Bearer of-somebody" },
        "webhookUrl": "http://127.0.0.1:9/never-called?token=of-somebody", "timestamp": format!("{time:.3}"),
    }));
}

/// Loses events of one of the two sources over the last ten minutes, some of which have arrived all
/// the same.
async fn lose(relay: &Relay, source: &str, lost: usize, arrived: usize) -> Result<()> {
    let genesys = &relay.genesys;
    let now = Timestamp::now();
    let mut webhooks = Vec::new();
    for number in 0..lost {
        let time = now - SignedDuration::from_mins(10)
            + SignedDuration::from_secs(i64::try_from(number)? * 2);
        let webhook = if source == "open-messaging" {
            genesys.add_message(
                &format!("conversation-{}", number / 10),
                "failed",
                message(number, time),
            );
            Webhook::signed(message(number, time).to_string())
        } else {
            log_failed(genesys, number, time);
            Webhook::with_shared_secret(envelope(number, time).to_string())
        };
        if number < arrived {
            webhooks.push(webhook);
        }
    }
    relay.accept_all(webhooks).await.map(drop)
}

async fn an_outage_is_recovered_from(relay: &Relay, source: &str) -> Result<()> {
    lose(relay, source, LOST, ARRIVED).await?;
    // Events that have arrived need not be delivered by now: then the table does not know them, and
    // the processor finds the copies.
    let first = relay.recover(json!({})).await?;
    assert_has(&first, json!({ "fetched": LOST, "complete": true }));
    let second = relay.recover(json!({})).await?;
    assert_has(&second, json!({ "fetched": LOST, "new": 0 }));
    relay.until_each_is_delivered_once(LOST).await?;
    let third = relay.recover(json!({})).await?;
    assert_has(&third, json!({ "new": 0, "known": LOST }));
    relay.until_each_is_delivered_once(LOST).await?;

    let calls = relay.genesys.calls().into_iter();
    let called: BTreeSet<_> = calls.filter_map(|call| call.status).collect();
    ensure!(called == [200].into(), "{called:?}");
    let requests = relay.target.requests();
    let passed_on = requests
        .iter()
        .any(|it| it.headers.contains_key("authorization"));
    ensure!(!passed_on, "a header of the log went through");
    Ok(())
}

/// On one relay, whose runs do not disturb each other.
#[tokio::test]
async fn webhooks_of_an_outage_are_delivered_once() -> Result<()> {
    let relay = Relay::recovering("webhook-deliveries").await?;
    an_outage_is_recovered_from(&relay, "webhook-deliveries").await?;
    unreadable_entry_is_a_dead_letter_once_and_whole(&relay).await?;
    two_runs_at_once_exclude_each_other(&relay).await?;
    log_failed(
        &relay.genesys,
        LOST,
        Timestamp::now() - SignedDuration::from_mins(1),
    );
    relay.run_schedule("Recovery", "now").await?;
    relay.until_each_is_delivered_once(LOST + 1).await
}

async fn unreadable_entry_is_a_dead_letter_once_and_whole(relay: &Relay) -> Result<()> {
    let time = format!("{:.3}", Timestamp::now() - SignedDuration::from_mins(1));
    let strange = json!({ "id": "strange", "status": "failed", "timestamp": time, "body": 42 });
    relay.genesys.add_delivery(strange.clone());
    let text = json!({ "id": "text", "webhookId": WEBHOOK, "status": "failed", "timestamp": time, "body": "plain text" });
    relay.genesys.add_delivery(text);
    // Two webhooks are read, and an entity without one is in the log of both.
    let dry = relay.recover(json!({ "dryRun": true })).await?;
    assert_has(&dry, json!({ "dryRun": true, "unreadable": 2 }));
    relay.until_empty().await?;
    let report = relay.recover(json!({})).await?;
    assert_has(&report, json!({ "unreadable": 2, "known": LOST + 1 }));
    assert_has(&relay.recover(json!({})).await?, json!({ "unreadable": 0 }));
    relay.until_dead(2).await?;

    let only = async |reason: &str| {
        let list = json!({ "action": "list", "reason": reason });
        let list = relay.replay(list).await?;
        ensure!(list["count"] == 1, "{list}");
        let id = list["items"][0]["eventId"].as_str().context("an id")?;
        relay.show(id).await
    };
    let unreadable = json!({ "body": strange.to_string(), "/history/0/action": "recover" });
    assert_has(&only("unreadable").await?, unreadable);
    assert_has(&only("malformed").await?, json!({ "body": "plain text" }));
    relay.purge().await
}

async fn two_runs_at_once_exclude_each_other(relay: &Relay) -> Result<()> {
    let (before, is_slow) = (relay.genesys.calls().len(), AtomicBool::new(true));
    relay.genesys.script(move |_| {
        let is_first = is_slow.swap(false, Ordering::Relaxed);
        is_first.then(|| CallFault::Slow(Duration::from_secs(5)))
    });
    let other = async {
        let has_begun = |calls: &[_]| calls.len() > before;
        relay
            .genesys
            .until("the first run has begun", has_begun)
            .await?;
        relay.recover_fails("Busy").await
    };
    let (first, other) = tokio::try_join!(relay.recover(json!({})), other)?;
    assert_has(&first, json!({ "complete": true }));
    ensure!(other.contains("has been running since"), "{other}");
    Ok(())
}

#[tokio::test]
async fn messages_of_an_outage_are_delivered_once() -> Result<()> {
    let relay = Relay::recovering("open-messaging").await?;
    an_outage_is_recovered_from(&relay, "open-messaging").await?;
    failures::a_failure_says_what_to_do_and_how_far_behind_it_is(&relay).await
}

async fn nothing_is_missed_whatever_goes_wrong(
    relay: &Relay,
    source: &str,
    lost: usize,
    arrived: usize,
) -> Result<()> {
    let genesys = &relay.genesys;
    relay.set_timeout(Function::Recovery, SHORT_RUN).await?;
    lose(relay, source, lost, arrived).await?;

    // Every third call meets the limit, and one page answers 500 twice. One hangs until the
    // function is killed.
    let (pages, hangs) = (AtomicUsize::new(0), Arc::new(AtomicBool::new(false)));
    let is_hanging = Arc::clone(&hangs);
    genesys.script(move |call| {
        if call.overall % 3 == 0 {
            let headers = [("Retry-After", "1"), ("inin-ratelimit-reset", "1")];
            return Some(CallFault::too_many_requests(&headers));
        }
        if call.endpoint == Endpoint::Token {
            return None;
        }
        match pages.fetch_add(1, Ordering::Relaxed) {
            1 | 2 => Some(CallFault::server_error(500)),
            5 => {
                is_hanging.store(true, Ordering::Relaxed);
                Some(CallFault::Slow(Duration::from_mins(1)))
            }
            _ => None,
        }
    });
    let half = async {
        let is_so = |_: &[_]| hangs.load(Ordering::Relaxed);
        genesys.until("a page hangs", is_so).await?;
        let killed = relay.kill(Function::Recovery).await?;
        ensure!(killed > 0, "there was a function to kill");
        Ok(())
    };
    let request = json!({});
    let run = relay.stack.invoke(Function::Recovery, &request);
    let (killed, ()) = tokio::try_join!(run, half)?;
    ensure!(killed.is_err(), "it was killed");
    // All later runs have the time that they need.
    relay.set_timeout(Function::Recovery, 290).await?;
    // Its lease ends, and its token is no longer good after some calls.
    let recovered = relay.until_free(Function::Recovery, &request);
    let expire = async {
        let calls = genesys.calls().len();
        let is_so = |all: &[_]| all.len() > calls + 4;
        genesys.until("the next run has begun", is_so).await?;
        genesys.expire_tokens();
        Ok(())
    };
    let (mut report, ()) = tokio::try_join!(recovered, expire)?;
    for _ in 0..20 {
        if report["complete"] == true {
            break;
        }
        report = relay.recover(json!({})).await?;
    }
    assert_has(&relay.recover(json!({})).await?, json!({ "new": 0 }));
    relay.until_each_is_delivered_once(lost).await?;
    let calls = genesys.calls().into_iter();
    let statuses: BTreeSet<_> = calls.filter_map(|call| call.status).collect();
    ensure!(statuses == [200, 401, 429, 500].into(), "{statuses:?}");
    Ok(())
}

#[tokio::test]
async fn no_webhook_is_missed_or_doubled_whatever_goes_wrong() -> Result<()> {
    let relay = Relay::recovering("webhook-deliveries").await?;
    nothing_is_missed_whatever_goes_wrong(&relay, "webhook-deliveries", LOST, ARRIVED).await
}

/// Fewer, since each message costs a call, and every third call a second.
#[tokio::test]
async fn no_message_is_missed_or_doubled_whatever_goes_wrong() -> Result<()> {
    let relay = Relay::recovering("open-messaging").await?;
    nothing_is_missed_whatever_goes_wrong(&relay, "open-messaging", 12, 4).await
}

/// As a person can watch it with `cargo local`.
#[tokio::test]
async fn events_sent_to_a_stopped_ingest_are_recovered_whatever_the_clocks() -> Result<()> {
    let relay = Relay::recovering("webhook-deliveries").await?;
    let genesys = &relay.genesys;
    let (url, pause) = (relay.stack.webhook_url()?, Duration::from_millis(50));
    relay.recover(json!({})).await?;
    let mut sent = 0;
    for skew in [-2, 0, 2] {
        genesys.set_skew(SignedDuration::from_mins(skew));
        let envelope =
            |number| Webhook::with_shared_secret(envelope(number, genesys.now()).to_string());
        let message = |number| Webhook::signed(message(number, genesys.now()).to_string());
        relay.stack.set_running(Function::Ingest, false).await?;
        for webhook in [envelope(1000 + sent), message(1001 + sent)] {
            let is_taken = genesys.deliver(&url, &webhook, pause).await;
            ensure!(!is_taken, "there was an answer");
        }
        relay.stack.set_running(Function::Ingest, true).await?;
        let is_taken = genesys.deliver(&url, &envelope(1002 + sent), pause).await;
        ensure!(is_taken, "ingest answers again");
        sent += 3;
        for _ in 0..2 {
            let report = relay.recover(json!({})).await?;
            assert_has(&report, json!({ "complete": true, "behindSeconds": 0 }));
        }
        relay.until_each_is_delivered_once(sent).await?;
    }
    Ok(())
}
