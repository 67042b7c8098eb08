//! Everything fails at random for a while: the network, the target, and the functions, which are
//! killed, while senders send and an operator works. Then all is well again, and each event has to
//! be where the relay promised.
//!
//! `cargo xtask soak` runs it alone, with `--seconds` of faults, and repeats the faults of a
//! `--seed`.

mod account;
mod operator;
mod trouble;

use std::collections::BTreeSet;
use std::env;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use fastrand::Rng;
use futures_util::stream::{self, StreamExt as _};
use genesys_relay::domain::event::Identity;
use genesys_relay::domain::json::Json;
use jiff::Timestamp;
use local::genesys::Webhook;
use local::stack::{Function, Service};
use local::target::Behaviour;
use local::wait;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use self::account::{Account, Ending};
use self::operator::Operator;
use self::trouble::Troubles;
use crate::archive;
use crate::faults::Faulty;
use crate::ledger::{self, Kept, dead_letters, records};
use crate::relay::{Relay, webhook};

const SECONDS: u64 = 60;

/// Between two events. The local AWS carries some twenty a second on a busy machine.
const EVENT_EVERY: Duration = Duration::from_millis(100);

/// One event in so many is sent twice.
const TWICE_IN: usize = 10;

/// Events whose sender has no answer yet.
const SENDERS: usize = 32;

/// Between two tries of a sender: Genesys takes longer, and would outlast all of the troubles here.
const SENDER_PAUSE: Duration = Duration::from_millis(150);

/// Duration of an invocation of the processor.
const PROCESSOR_TIME: Duration = Duration::from_secs(5);

const PARAMETERS: [(&str, &str); 6] = [
    ("MaximumConcurrency", "2"),
    ("MaxReceiveCount", "4"),
    ("BackoffBaseSeconds", "1"),
    ("BackoffCapSeconds", "4"),
    ("ProcessorTimeoutSeconds", "5"),
    ("TargetTimeoutSeconds", "1"),
];

/// Seconds of the runs that are killed: what they hid, and their leases, last not much longer.
const REPLAY_SECONDS: i32 = 15;
const RECOVERY_SECONDS: i32 = 20;

/// Seconds of such runs after the faults, on a busy machine.
const SETTLING_SECONDS: i32 = 300;

/// Longest time without progress while settling: longer than the minute after which a missing
/// record is noticed.
const STANDSTILL: Duration = Duration::from_mins(3);

/// Knowledge of the senders.
#[derive(Debug, Default)]
struct Sent {
    /// The events that were answered with 2xx.
    accepted: BTreeSet<String>,
    /// Those that their senders gave up, and only the log of deliveries has.
    refused: BTreeSet<String>,
}

fn variable<T: FromStr>(name: &str, otherwise: T) -> Result<T> {
    let Ok(text) = env::var(name) else {
        return Ok(otherwise);
    };
    let value = text.parse().ok();
    value.with_context(|| format!("{name}={text} is no number"))
}

fn event_id(webhook: &Webhook) -> Result<String> {
    let lone = || panic!("nothing tells it apart");
    let identity = Identity::of(Json::parse(&webhook.body)?, Timestamp::now(), None, lone);
    Ok(identity.id.to_string())
}

/// Sends until then, each event by a sender of its own that gives up as Genesys does.
async fn send(relay: &Relay, end: Instant) -> Result<Sent> {
    let url = relay.stack.webhook_url()?;
    let numbers = stream::unfold(0, async |number| {
        sleep(EVENT_EVERY).await;
        (Instant::now() < end).then_some((number, number + 1))
    });
    let deliver = |number: usize| {
        let (webhook, url) = (webhook(&format!("soak {number}")), &url);
        async move {
            let deliver = || relay.genesys.deliver(url, &webhook, SENDER_PAUSE);
            let is_accepted = if number.is_multiple_of(TWICE_IN) {
                let (first, second) = tokio::join!(deliver(), deliver());
                first || second
            } else {
                deliver().await
            };
            Ok::<_, anyhow::Error>((event_id(&webhook)?, is_accepted))
        }
    };
    let mut sent = Sent::default();
    let mut outcomes = Box::pin(numbers.map(deliver).buffer_unordered(SENDERS));
    while let Some(outcome) = outcomes.next().await {
        let (id, is_accepted) = outcome?;
        if is_accepted {
            &mut sent.accepted
        } else {
            &mut sent.refused
        }
        .insert(id);
    }
    Ok(sent)
}

/// Waits until no event is on its way.
async fn until_idle(relay: &Relay) -> Result<()> {
    ledger::until(relay, "no event is on its way", async || {
        Ok(relay.held().await?.0 == 0)
    })
    .await
}

/// Lets the recovery fetch the events that their senders gave up.
async fn recover_all(relay: &Relay) -> Result<()> {
    let request = json!({ "by": "the soak" });
    wait::until("all that was given up is fetched", || async {
        let report = relay.until_free(Function::Recovery, &request).await?;
        let is_done = report["complete"] == true && report["behindSeconds"] == 0;
        Ok(is_done.then_some(()))
    })
    .await
}

/// Carries out a request when no killed run and no move is in its way.
async fn replay(relay: &Relay, mut request: Value) -> Result<Value> {
    request["by"] = "the soak".into();
    relay.until_free(Function::Replay, &request).await
}

/// Reconciles until each record says how its event has ended, and gives all that can be known by
/// then.
///
/// An event that is noticed a minute after its time takes that minute, and a run over thousands of
/// events its own time.
async fn until_ended(relay: &Relay) -> Result<Ending> {
    let mut progress = (usize::MAX, u32::MAX, Instant::now());
    let records = loop {
        let report = replay(relay, json!({ "action": "reconcile" })).await?;
        let records = records(relay).await?;
        let ends = ["DELIVERED", "DEAD", "ARCHIVED", "DISCARDED"];
        let is_open = |kept: &&Kept| !ends.contains(&kept.state.as_str());
        let open: Vec<_> = records.values().filter(is_open).collect();
        let counts = relay.stack.queue_counts().await?;
        // What a killed run has hidden is not seen by reconcile.
        let hidden = counts.events.total() + counts.dead_letters.in_flight;
        // A copy can have come there since, or the run have been cut short before it: the next one
        // removes it.
        let is_settled =
            report["complete"] == true && report["removed"] == 0 && report["recorded"] == 0;
        if open.is_empty() && hidden == 0 && is_settled {
            break records;
        }
        if open.len() < progress.0 || hidden < progress.1 {
            progress = (open.len(), hidden, Instant::now());
        }
        ensure!(
            progress.2.elapsed() < STANDSTILL,
            "{} events do not end: {counts:?}, {report}, {open:?}",
            open.len()
        );
        sleep(Duration::from_secs(1)).await;
    };
    let mut archived = BTreeSet::new();
    for key in archive::keys(relay).await? {
        let lines = archive::lines(&archive::object(relay, &key).await?)?;
        let ids = lines.iter().filter_map(|line| line["eventId"].as_str());
        archived.extend(ids.map(str::to_owned));
    }
    let letters = dead_letters(relay).await?;
    Ok(Ending {
        records,
        letters,
        archived,
    })
}

/// Brings back all that is dead or archived, and waits until the target has it.
async fn bring_back_all(relay: &Relay) -> Result<()> {
    for key in archive::keys(relay).await? {
        replay(relay, json!({ "action": "restore", "key": key })).await?;
    }
    let all = json!({ "action": "replay", "all": true, "force": true });
    wait::until("all that was dead is delivered", || async {
        replay(relay, all.clone()).await?;
        until_idle(relay).await?;
        replay(relay, json!({ "action": "reconcile" })).await?;
        Ok((relay.held().await? == (0, 0)).then_some(()))
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_event_is_lost_whatever_fails() -> Result<()> {
    let seconds = variable("GENESYS_RELAY_SOAK_SECONDS", SECONDS)?;
    let seed = variable("GENESYS_RELAY_SOAK_SEED", fastrand::u64(..))?;
    eprintln!("cargo xtask soak --seed {seed} --seconds {seconds}");
    let mut dice = Rng::with_seed(seed);
    let faulty = Faulty::start(Behaviour::Fine, &PARAMETERS).await?;
    let (relay, began) = (&faulty.relay, Instant::now());
    relay.genesys.set_rate_limit(1_000_000);
    relay.set_timeout(Function::Replay, REPLAY_SECONDS).await?;
    relay
        .set_timeout(Function::Recovery, RECOVERY_SECONDS)
        .await?;
    relay.recover(json!({})).await?;

    let end = Instant::now() + Duration::from_secs(seconds);
    let mut operator = Operator::new(relay, dice.fork());
    let (cut_queues, cut_table) = (dice.fork(), dice.fork());
    let (sent, queue_cuts, table_cuts, changes, outages, kills, ()) = tokio::try_join!(
        send(relay, end),
        trouble::cut(Service::Sqs, &faulty.sqs, cut_queues, end),
        trouble::cut(Service::DynamoDb, &faulty.dynamodb, cut_table, end),
        trouble::flap(&relay.target, dice.fork(), end),
        trouble::stop_ingest(relay, dice.fork(), end),
        trouble::kill(relay, dice.fork(), end),
        operator.work(end),
    )?;
    let (cuts, kills) = (
        [queue_cuts, table_cuts].concat(),
        [kills, operator.take_kills()].concat(),
    );
    let troubles = Troubles {
        cuts,
        kills,
        changes,
        outages,
    };
    let time_of_faults = began.elapsed();
    // From now on no run is killed, and each has the time that it needs.
    for function in [Function::Replay, Function::Recovery] {
        relay.set_timeout(function, SETTLING_SECONDS).await?;
    }

    until_idle(relay).await?;
    recover_all(relay).await?;
    until_idle(relay).await?;
    let ending = until_ended(relay).await?;
    let account = Account {
        relay,
        sent: &sent,
        troubles: &troubles,
        asked_to_discard: operator.asked_to_discard(),
    };
    let figures = account.settle(&ending)?;
    bring_back_all(relay).await?;
    let lost = account.lost(&until_ended(relay).await?);
    eprintln!(
        "seed {seed}, {seconds} s of faults: {} events, {figures}, {}, {} lost; {} in {time_of_faults:.0?}, all in {:.0?}",
        sent.accepted.len() + sent.refused.len(),
        operator.figures(),
        lost.len(),
        troubles.figures(),
        began.elapsed(),
    );
    ensure!(lost.is_empty(), "lost: {lost:?}");
    let counts = [troubles.cuts.len(), troubles.kills.len(), troubles.changes];
    ensure!(
        counts.iter().all(|count| *count >= 4),
        "too few faults: {counts:?}"
    );
    Ok(())
}
