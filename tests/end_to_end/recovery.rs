//! Recovery of events that Genesys Cloud failed to deliver, under faults; events that had arrived
//! are recognised.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use jiff::{SignedDuration, Timestamp};
use local::genesys::Webhook;
use local::genesys_cloud::{Endpoint, Fault, GenesysCloud};
use local::stack::Function;
use local::target::Behaviour;
use local::wait;
use serde_json::{Value, json};

use crate::Relay;

/// The webhook and the integration that point to the relay.
pub(crate) const IDS: [&str; 2] = [WEBHOOK, INTEGRATION];

const WEBHOOK: &str = "11111111-2222-4333-8444-555555555555";
const INTEGRATION: &str = "3f1c9a52-7d0b-4e0e-9a57-2f6d1f0c8b11";

/// As many as an outage of some minutes loses.
const LOST: usize = 200;

/// Of those, so many had arrived before the endpoint went away, or while Genesys Cloud had already
/// given up.
const ARRIVED: usize = 60;

/// Seconds that a run of the recovery has, in tests that kill one.
const SHORT_RUN: i32 = 40;

impl Relay {
    /// Starts a relay that recovers from a Genesys Cloud of its own, by hand only.
    async fn recovering(source: &str) -> Result<Self> {
        Self::start_with(Behaviour::Fine, &[], source).await
    }

    /// Invokes the recovery, which has to answer.
    pub(crate) async fn recover(&self, request: Value) -> Result<Value> {
        Ok(self.stack.invoke(Function::Recovery, &request).await??)
    }

    /// Invokes the recovery, which has to fail with an error of this type, and gives its message.
    pub(crate) async fn recover_fails(&self, request: Value, error_type: &str) -> Result<String> {
        let Err(error) = self.stack.invoke(Function::Recovery, &request).await? else {
            anyhow::bail!("{request} was carried out");
        };
        ensure!(error.0["errorType"] == error_type, "{request}: {error}");
        Ok(error.0["errorMessage"]
            .as_str()
            .unwrap_or_default()
            .to_owned())
    }

    /// Waits until the target has had each of `events` events just once.
    async fn until_each_is_delivered_once(&self, events: usize) -> Result<()> {
        let what = format!("{events} events are delivered");
        wait::until(&what, || async {
            Ok((self.deliveries().len() >= events).then_some(()))
        })
        .await?;
        self.until_empty().await?;
        let deliveries = self.deliveries();
        ensure!(
            deliveries.len() == events,
            "{} events were delivered",
            deliveries.len()
        );
        let doubled: Vec<_> = deliveries
            .iter()
            .filter(|(_, times)| **times != 1)
            .collect();
        ensure!(doubled.is_empty(), "delivered more than once: {doubled:?}");
        Ok(())
    }
}

/// A webhook of the tutorials' envelope, told from others by its number.
fn envelope(number: usize, time: Timestamp) -> Value {
    json!({
        "webhookId": WEBHOOK,
        "webhookName": "orders",
        "payload": { "number": number, "total": 12.50, "text": "Grüße 😀" },
        "timestamp": format!("{time:.3}"),
    })
}

/// A message of Open Messaging.
fn message(number: usize, time: Timestamp) -> Value {
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

async fn an_outage_is_recovered_from(source: &str) -> Result<()> {
    let relay = Relay::recovering(source).await?;
    let genesys = &relay.genesys;
    genesys.set_rate_limit(100_000);
    lose(&relay, source, LOST, ARRIVED).await?;
    // What has arrived need not be delivered by now: then the table does not know it, and the
    // processor finds the copy.
    let first = relay.recover(json!({})).await?;
    ensure!(
        first["fetched"] == LOST && first["complete"] == true,
        "{first}"
    );
    let second = relay.recover(json!({})).await?;
    ensure!(second["fetched"] == LOST && second["new"] == 0, "{second}");
    relay.until_each_is_delivered_once(LOST).await?;
    let third = relay.recover(json!({})).await?;
    ensure!(
        (&third["new"], &third["known"]) == (&json!(0), &json!(LOST)),
        "{third}"
    );
    relay.until_each_is_delivered_once(LOST).await?;

    let called: BTreeSet<_> = genesys
        .calls()
        .into_iter()
        .filter_map(|call| call.status)
        .collect();
    ensure!(called == [200].into(), "{called:?}");
    for request in relay.target.requests() {
        ensure!(
            request.headers.get("authorization").is_none(),
            "a header of the log went through"
        );
    }
    Ok(())
}

#[tokio::test]
async fn after_an_outage_each_webhook_is_delivered_once() -> Result<()> {
    an_outage_is_recovered_from("webhook-deliveries").await
}

#[tokio::test]
async fn after_an_outage_each_message_is_delivered_once() -> Result<()> {
    an_outage_is_recovered_from("open-messaging").await
}

async fn nothing_is_missed_whatever_goes_wrong(
    source: &str,
    lost: usize,
    arrived: usize,
) -> Result<()> {
    let relay = Relay::recovering(source).await?;
    let genesys = &relay.genesys;
    genesys.set_rate_limit(100_000);
    relay.set_timeout(Function::Recovery, SHORT_RUN).await?;
    lose(&relay, source, lost, arrived).await?;

    // Every third call meets the limit, and one page answers 500 twice. One hangs until the
    // function is killed.
    let (pages, hangs) = (AtomicUsize::new(0), Arc::new(AtomicBool::new(false)));
    let is_hanging = Arc::clone(&hangs);
    genesys.script(move |call| {
        if call.overall % 3 == 0 {
            return Some(Fault::too_many_requests(&[
                ("Retry-After", "1"),
                ("inin-ratelimit-reset", "1"),
            ]));
        }
        if call.endpoint == Endpoint::Token {
            return None;
        }
        match pages.fetch_add(1, Ordering::Relaxed) {
            1 | 2 => Some(Fault::server_error(500)),
            5 => {
                is_hanging.store(true, Ordering::Relaxed);
                Some(Fault::Slow(Duration::from_mins(1)))
            }
            _ => None,
        }
    });
    let half = async {
        genesys
            .until("a page hangs", |_| hangs.load(Ordering::Relaxed))
            .await?;
        ensure!(
            relay.kill(Function::Recovery).await? > 0,
            "there was a function to kill"
        );
        anyhow::Ok(())
    };
    let request = json!({});
    let (killed, half) = tokio::join!(relay.stack.invoke(Function::Recovery, &request), half);
    half?;
    ensure!(killed?.is_err(), "it was killed");
    let recovered = wait::until("the lease of the killed run ends", || async {
        Ok(relay.stack.invoke(Function::Recovery, &request).await?.ok())
    });
    // Its token is no longer good after some calls.
    let expire = async {
        let calls = genesys.calls().len();
        genesys
            .until("the next run is under way", |all| all.len() > calls + 4)
            .await?;
        genesys.expire_tokens();
        anyhow::Ok(())
    };
    let (mut report, expired) = tokio::join!(recovered, expire);
    expired?;
    for _ in 0..20 {
        let answer = report?;
        if answer["complete"] == true {
            break;
        }
        report = relay.recover(json!({})).await;
    }
    ensure!(
        relay.recover(json!({})).await?["new"] == 0,
        "all were queued"
    );
    relay.until_each_is_delivered_once(lost).await?;
    let statuses: BTreeSet<_> = genesys
        .calls()
        .into_iter()
        .filter_map(|call| call.status)
        .collect();
    ensure!(statuses == [200, 401, 429, 500].into(), "{statuses:?}");
    Ok(())
}

#[tokio::test]
async fn no_webhook_is_missed_or_doubled_whatever_goes_wrong() -> Result<()> {
    nothing_is_missed_whatever_goes_wrong("webhook-deliveries", LOST, ARRIVED).await
}

/// Fewer, since each message costs a call, and every third call a second.
#[tokio::test]
async fn no_message_is_missed_or_doubled_whatever_goes_wrong() -> Result<()> {
    nothing_is_missed_whatever_goes_wrong("open-messaging", 12, 4).await
}

/// As a person can watch it with `cargo local`.
#[tokio::test]
async fn what_was_sent_while_ingest_was_stopped_is_recovered_whichever_clock_is_wrong() -> Result<()>
{
    let relay = Relay::recovering("webhook-deliveries").await?;
    let genesys = &relay.genesys;
    let (url, pause) = (relay.stack.webhook_url()?, Duration::from_millis(50));
    relay.recover(json!({})).await?;
    let mut sent = 0;
    for skew in [-2, 0, 2] {
        genesys.set_skew(SignedDuration::from_mins(skew));
        relay.stack.set_running(Function::Ingest, false).await?;
        for webhook in [
            Webhook::with_shared_secret(envelope(1000 + sent, genesys.now()).to_string()),
            Webhook::signed(message(1000 + sent, genesys.now()).to_string()),
        ] {
            ensure!(
                !genesys.deliver(&url, &webhook, pause).await,
                "there was an answer"
            );
            sent += 1;
        }
        relay.stack.set_running(Function::Ingest, true).await?;
        let webhook = Webhook::with_shared_secret(envelope(1000 + sent, genesys.now()).to_string());
        ensure!(
            genesys.deliver(&url, &webhook, pause).await,
            "ingest answers again"
        );
        sent += 1;
        for _ in 0..2 {
            let report = relay.recover(json!({})).await?;
            ensure!(
                report["complete"] == true && report["behindSeconds"] == 0,
                "{report}"
            );
        }
        relay.until_each_is_delivered_once(sent).await?;
    }
    Ok(())
}

#[tokio::test]
async fn unreadable_entry_is_a_dead_letter_once_and_whole() -> Result<()> {
    let relay = Relay::recovering("webhook-deliveries").await?;
    let genesys = &relay.genesys;
    let time = format!("{:.3}", Timestamp::now() - SignedDuration::from_mins(1));
    let strange = json!({ "id": "strange", "status": "failed", "timestamp": time, "body": 42 });
    genesys.add_delivery(strange.clone());
    let text = json!({ "id": "text", "webhookId": WEBHOOK, "status": "failed", "timestamp": time, "body": "plain text" });
    genesys.add_delivery(text);
    // Two webhooks are read, and an entity without one is in the log of both.
    let dry = relay.recover(json!({ "dryRun": true })).await?;
    ensure!(dry["dryRun"] == true && dry["unreadable"] == 2, "{dry}");
    relay.until_empty().await?;
    let report = relay.recover(json!({})).await?;
    ensure!(
        (&report["unreadable"], &report["known"]) == (&json!(2), &json!(1)),
        "{report}"
    );
    ensure!(relay.recover(json!({})).await?["unreadable"] == 0);
    relay.until_dead(2).await?;

    let list = relay
        .replay(json!({ "action": "list", "reason": "unreadable" }))
        .await?;
    ensure!(list["count"] == 1, "{list}");
    let id = list["items"][0]["eventId"].as_str().context("an id")?;
    let shown = relay.show(id).await?;
    ensure!(
        shown["body"].as_str() == Some(strange.to_string().as_str()),
        "{shown}"
    );
    ensure!(shown["history"][0]["action"] == "recover", "{shown}");
    let list = relay
        .replay(json!({ "action": "list", "reason": "malformed" }))
        .await?;
    ensure!(
        list["count"] == 1
            && relay
                .show(list["items"][0]["eventId"].as_str().context("an id")?)
                .await?["body"]
                == "plain text"
    );
    Ok(())
}

#[tokio::test]
async fn a_failure_says_what_to_do_and_how_far_behind_it_is() -> Result<()> {
    let relay = Relay::recovering("open-messaging").await?;
    let genesys = &relay.genesys;
    relay.recover(json!({})).await?;

    genesys.script(|call| {
        (call.endpoint == Endpoint::Query)
            .then(|| Fault::missing_permission("analytics:conversationDetail:view"))
    });
    let error = relay.recover_fails(json!({}), "Forbidden").await?;
    ensure!(
        error.contains("the permission analytics:conversationDetail:view"),
        "{error}"
    );

    genesys.script(|call| (call.endpoint == Endpoint::Query).then(|| Fault::body("{}")));
    let error = relay.recover_fails(json!({}), "GenesysError").await?;
    ensure!(
        error.contains("totalHits"),
        "an answer without its fields is no empty list: {error}"
    );

    genesys.script(|_| None);
    let mut secret = local::stack::secret();
    secret["genesysClientSecret"] = json!("not-the-secret-of-this-client");
    relay.stack.set_secret(&secret).await?;
    // What has read the secret keeps it for a while.
    relay.kill(Function::Recovery).await?;
    let error = relay.recover_fails(json!({}), "Credentials").await?;
    ensure!(
        error.contains("genesysClientSecret") && !error.contains("not-the-secret"),
        "{error}"
    );

    let lines = relay.stack.log_lines(Function::Recovery, 0).await?;
    let is_run = |line: &&Value| {
        line["message"] == "finished recovery" || line["message"] == "recovery failed"
    };
    let runs: Vec<_> = lines
        .iter()
        .map(|line| &line.content)
        .filter(is_run)
        .collect();
    ensure!(runs.len() >= 4, "one line for each run: {runs:?}");
    for field in ["fetched", "new", "known", "unreadable", "behind_seconds"] {
        ensure!(
            runs.iter().all(|run| run[field].is_u64()),
            "{field} is a number: {runs:?}"
        );
    }
    // What the last one wrote may not be read yet.
    let failed: Vec<_> = lines
        .iter()
        .map(|line| &line.content["RecoveryFailed"])
        .filter(|one| one.is_array())
        .collect();
    ensure!(
        failed.starts_with(&[&json!([0.0]), &json!([1.0])]),
        "one value for each run: {failed:?}"
    );
    ensure!(
        runs.iter()
            .any(|run| run["level"] == "ERROR" && run["error"].is_string()),
        "{runs:?}"
    );
    let calls = lines
        .iter()
        .filter(|line| line.content["message"] == "called Genesys Cloud");
    ensure!(calls.into_iter().all(|line| {
        line.content["correlation_id"]
            .as_str()
            .is_some_and(|id| id.len() > 8)
    }));
    let all = lines
        .iter()
        .map(|line| line.content.to_string())
        .collect::<String>();
    ensure!(
        !all.contains(local::genesys_cloud::CLIENT_SECRET) && !all.contains("not-the-secret"),
        "no secret is logged"
    );
    Ok(())
}

#[tokio::test]
async fn two_runs_at_once_exclude_each_other() -> Result<()> {
    let relay = Relay::recovering("webhook-deliveries").await?;
    let genesys = &relay.genesys;
    genesys.script(|call| (call.overall == 2).then(|| Fault::Slow(Duration::from_secs(15))));
    let request = json!({});
    let other = async {
        genesys
            .until("the first run has begun", |calls| calls.len() > 1)
            .await?;
        relay.recover_fails(json!({}), "Busy").await
    };
    let (first, other) = tokio::join!(relay.recover(request), other);
    ensure!(first?["complete"] == true);
    ensure!(other?.contains("has been running since"));
    Ok(())
}

#[tokio::test]
async fn the_schedule_recovers_and_what_is_off_refuses() -> Result<()> {
    let relay = Relay::recovering("webhook-deliveries").await?;
    let genesys = &relay.genesys;
    log_failed(genesys, 1, Timestamp::now() - SignedDuration::from_mins(1));
    relay.stack.aws().schedule_now("Recovery", "now").await?;
    relay.until_each_is_delivered_once(1).await?;

    let off = Relay::start(Behaviour::Fine, &[]).await?;
    let error = off.recover_fails(json!({}), "Off").await?;
    ensure!(error.contains("RecoverySource"), "{error}");
    let schedules = off.stack.aws().schedules().await?;
    ensure!(schedules.iter().all(|name| !name.contains("Recovery")));
    Ok(())
}
