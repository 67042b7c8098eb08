//! A network and a target that fail in every way they can, one at a time: what the relay does then
//! is what it says it does.

use std::fs;
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use local::faulty_proxy::{FaultyProxy, NetworkFault};
use local::stack::{Function, Service};
use local::target::{Answer, Behaviour, Fault, ReceivedRequest};
use local::wait;
use serde_json::{Value, json};

use crate::{Relay, name_of, webhook};

/// An attempt that fails comes again after a second, a crash after half a minute, and a lease is
/// over after ten seconds.
const QUICK: [(&str, u32); 4] = [
    ("TargetTimeoutSeconds", 1),
    ("BackoffBaseSeconds", 1),
    ("BackoffCapSeconds", 1),
    ("ProcessorTimeoutSeconds", 5),
];

/// The same, with time to change something while a delivery is under way.
const PATIENT: [(&str, u32); 4] = [
    ("TargetTimeoutSeconds", 5),
    ("BackoffBaseSeconds", 1),
    ("BackoffCapSeconds", 1),
    ("ProcessorTimeoutSeconds", 10),
];

/// Most additional memory of the processor for large answers: less than the size of one.
const MORE_KIB: u64 = 8 * 1024;

/// Dead letters to be replayed, in batches of ten, and how often that is tried in bad fault.
const DEAD_LETTERS: usize = 80;
const RUNS: usize = 10;

/// Seconds of an invocation of replay, so that what it cannot show again is soon back.
const SHORT_RUN: i32 = 15;

/// A relay whose functions reach the queues and the table through a network that fails when it is
/// told to.
pub(crate) struct Faulty {
    pub(crate) relay: Relay,
    pub(crate) sqs: Arc<FaultyProxy>,
    pub(crate) dynamodb: Arc<FaultyProxy>,
}

impl Faulty {
    /// Starts one that recovers from the log of webhook deliveries, by hand.
    pub(crate) async fn start(behaviour: Behaviour, parameters: &[(&str, u32)]) -> Result<Self> {
        let (sqs, dynamodb) = (
            Arc::new(FaultyProxy::start().await?),
            Arc::new(FaultyProxy::start().await?),
        );
        let ways = [(Service::Sqs, &sqs), (Service::DynamoDb, &dynamodb)];
        let relay =
            Relay::start_through(&ways, behaviour, parameters, "webhook-deliveries").await?;
        Ok(Self {
            relay,
            sqs,
            dynamodb,
        })
    }

    /// Sends a webhook once, and gives the status and the answer.
    async fn send(&self, name: &str) -> Result<(u16, Value)> {
        webhook(name).send(&self.relay.stack.webhook_url()?).await
    }

    /// Numbers of messages in the queues.
    async fn held(&self) -> Result<(u32, u32)> {
        let counts = self.relay.stack.queue_counts().await?;
        Ok((counts.events.total(), counts.dead_letters.total()))
    }

    /// Number of log lines of the processor about an event with this message.
    async fn said(&self, id: &str, message: &str) -> Result<usize> {
        let lines = self.relay.stack.log_lines(Function::Processor, 0).await?;
        let is_it = |line: &Value| {
            line["event_id"] == id
                && line["message"]
                    .as_str()
                    .is_some_and(|text| text.starts_with(message))
        };
        Ok(lines.iter().filter(|line| is_it(&line.content)).count())
    }

    async fn until_said(&self, id: &str, message: &str) -> Result<()> {
        wait::until(message, || async {
            Ok((self.said(id, message).await? > 0).then_some(()))
        })
        .await
    }
}

/// Waits until a proxy has harmed more connections than it had.
async fn until_harmed(proxy: &FaultyProxy, before: usize) -> Result<()> {
    wait::until("a connection meets the fault", || async {
        Ok((proxy.harmed() > before).then_some(()))
    })
    .await
}

/// Waits until neither queue holds anything. What is delivered meanwhile is answered.
async fn release_until_empty(relay: &Relay) -> Result<()> {
    relay
        .stack
        .until_queues("both queues are empty", |counts| {
            relay.target.release();
            counts.events.total() + counts.dead_letters.total() == 0
        })
        .await
        .map(drop)
}

/// The events whose name is that of a fault meet it once.
fn as_named_at_first(request: &ReceivedRequest) -> Answer {
    let name = name_of(&request.body);
    let named = Fault::ALL.into_iter().find(|fault| fault.name() == name);
    named
        .filter(|_| request.nth == 1)
        .map_or(Answer::status(200), Answer::fault)
}

/// The most memory that any process of the processor has had.
fn processor_memory_kib(relay: &Relay) -> Result<u64> {
    let most = |pid: u32| -> Result<u64> {
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("VmHWM:"))
            .context("a high water mark")?;
        Ok(line.trim().trim_end_matches(" kB").parse()?)
    };
    let pids = relay.stack.pids_of(Function::Processor)?;
    pids.into_iter()
        .map(most)
        .try_fold(0, |largest, next| Ok(next?.max(largest)))
}

#[tokio::test]
async fn what_breaks_http_is_tried_again_and_a_status_counts_whatever_follows_it() -> Result<()> {
    let relay = Relay::start(Behaviour::Wire(Fault::ResetUnread), &QUICK).await?;
    let unread = relay.accept(&webhook("reset-unread")).await?;
    wait::until("an attempt failed", || async {
        // It has no record before it is claimed.
        let shown = relay
            .stack
            .invoke(
                Function::Replay,
                &json!({ "action": "show", "eventId": unread }),
            )
            .await?;
        Ok(shown
            .ok()
            .and_then(|shown| shown["attempts"].get(0).cloned()))
    })
    .await?;
    relay.target.behave(Behaviour::script(as_named_at_first));
    let faults = Fault::ALL
        .into_iter()
        .filter(|fault| *fault != Fault::ResetUnread)
        .collect::<Vec<_>>();
    let ids = relay
        .accept_all(faults.iter().map(|fault| webhook(fault.name())))
        .await?;
    relay.until_empty().await?;

    let shown = relay.show(&unread).await?;
    ensure!(
        shown["state"] == "DELIVERED" && shown["attempts"][0]["error"].is_string(),
        "{shown}"
    );
    for (fault, id) in faults.into_iter().zip(ids) {
        let shown = relay.show(&id).await?;
        ensure!(shown["state"] == "DELIVERED", "{fault}: {shown}");
        let attempts = shown["attempts"].as_array().context("attempts")?;
        let first = &attempts[0];
        let beginning = match fault {
            Fault::Trickle => Some("the target did not answer in time"),
            Fault::Reset | Fault::Garbage | Fault::BadLength | Fault::EndlessHeaders => {
                Some("the target cannot be reached")
            }
            Fault::Short | Fault::Large | Fault::EndlessBody => None,
            Fault::ResetUnread => unreachable!("left out above"),
        };
        let Some(beginning) = beginning else {
            ensure!(
                (attempts.len(), &first["statusCode"]) == (1, &json!(200)),
                "{fault}: {shown}"
            );
            ensure!(relay.target.requests_of(&id).len() == 1, "{fault}: once");
            continue;
        };
        ensure!(
            attempts.len() == 2 && first["statusCode"].is_null(),
            "{fault}: {shown}"
        );
        ensure!(
            first["error"]
                .as_str()
                .is_some_and(|error| error.starts_with(beginning)),
            "{fault}: {shown}"
        );
        ensure!(
            relay.target.requests_of(&id).len() == 2,
            "{fault}: once more"
        );
    }
    Ok(())
}

#[tokio::test]
async fn a_target_that_sends_without_end_costs_no_memory() -> Result<()> {
    let relay = Relay::start(Behaviour::Fine, &QUICK).await?;
    let batch =
        |name: &'static str| (0..10).map(move |number| webhook(&format!("{name} {number}")));
    relay.accept_all(batch("small")).await?;
    relay.until_empty().await?;
    let before = processor_memory_kib(&relay)?;
    ensure!(before > 0, "a processor is there");
    relay.target.behave(Behaviour::script(|request| {
        match (name_of(&request.body).split_once(' '), request.nth) {
            (Some(("large", _)), _) => Answer::fault(Fault::Large),
            (Some(("endless", _)), 1) => Answer::fault(Fault::EndlessHeaders),
            _ => Answer::status(200),
        }
    }));
    relay.accept_all(batch("large")).await?;
    relay.accept_all(batch("endless")).await?;
    relay.until_empty().await?;
    let after = processor_memory_kib(&relay)?;
    eprintln!("memory of the processor: {before} KiB before, {after} KiB after");
    ensure!(
        after < before + MORE_KIB,
        "{before} KiB before, {after} KiB after"
    );
    let deliveries = relay.deliveries();
    ensure!(
        deliveries.len() == 30 && deliveries.values().all(|times| *times == 1),
        "{deliveries:?}"
    );
    Ok(())
}

#[tokio::test]
async fn without_the_table_nothing_is_delivered_and_nothing_is_lost() -> Result<()> {
    let faulty = Faulty::start(Behaviour::Fine, &QUICK).await?;
    for (fault, name) in [
        (NetworkFault::CutOff, "cut off"),
        (NetworkFault::Silent, "silent"),
        (NetworkFault::AnswerLost, "claimed, answer lost"),
    ] {
        faulty.dynamodb.set(fault);
        let before = faulty.dynamodb.harmed();
        let id = faulty.relay.accept(&webhook(name)).await?;
        until_harmed(&faulty.dynamodb, before + 1).await?;
        ensure!(
            faulty.relay.target.requests_of(&id).is_empty(),
            "{name}: delivered without a claim"
        );
        ensure!(faulty.held().await? == (1, 0), "{name}: kept");
        faulty.dynamodb.set(NetworkFault::None);
        faulty.relay.until_empty().await?;
        ensure!(
            faulty.relay.deliveries().get(&id) == Some(&1),
            "{name}: once"
        );
        ensure!(faulty.relay.show(&id).await?["state"] == "DELIVERED");
    }
    Ok(())
}

#[tokio::test]
async fn a_delivery_is_recorded_as_soon_as_the_table_answers_again() -> Result<()> {
    let faulty = Faulty::start(Behaviour::script(|_| Answer::held(200)), &PATIENT).await?;
    for (fault, name) in [
        (NetworkFault::CutOff, "cut off"),
        (NetworkFault::AnswerLost, "recorded, answer lost"),
    ] {
        let id = faulty.relay.accept(&webhook(name)).await?;
        let under_way =
            |requests: &[ReceivedRequest]| requests.iter().any(|request| request.event_id == id);
        faulty
            .relay
            .target
            .until("a delivery is under way", under_way)
            .await?;
        faulty.dynamodb.set(fault);
        let before = faulty.dynamodb.harmed();
        faulty.relay.target.release();
        until_harmed(&faulty.dynamodb, before).await?;
        faulty.dynamodb.set(NetworkFault::None);
        release_until_empty(&faulty.relay).await?;
        let shown = faulty.relay.show(&id).await?;
        ensure!(shown["state"] == "DELIVERED", "{name}: {shown}");
        // Too busy a machine leaves no time to record it, and says so.
        if faulty.said(&id, "delivered, and not recorded").await? == 0 {
            ensure!(
                faulty.relay.deliveries().get(&id) == Some(&1),
                "{name}: once"
            );
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_delivery_that_is_never_recorded_is_repeated_with_the_same_id() -> Result<()> {
    let faulty = Faulty::start(Behaviour::script(|_| Answer::held(200)), &PATIENT).await?;
    let id = faulty.relay.accept(&webhook("unrecorded")).await?;
    faulty
        .relay
        .target
        .until("a delivery is under way", |requests| requests.len() == 1)
        .await?;
    faulty.dynamodb.set(NetworkFault::Silent);
    faulty.relay.target.release();
    faulty
        .until_said(
            &id,
            "failed to record the delivery; the target will receive the event again",
        )
        .await?;
    ensure!(faulty.held().await? == (1, 0), "not acknowledged");
    faulty.dynamodb.set(NetworkFault::None);
    release_until_empty(&faulty.relay).await?;
    ensure!(
        faulty.relay.deliveries().get(&id) == Some(&2),
        "in doubt twice"
    );
    let shown = faulty.relay.show(&id).await?;
    ensure!(
        (&shown["state"], &shown["attempts"][1]["statusCode"])
            == (&json!("DELIVERED"), &json!(200)),
        "{shown}"
    );
    Ok(())
}

#[tokio::test]
async fn without_the_queue_nothing_is_accepted() -> Result<()> {
    let faulty = Faulty::start(Behaviour::Fine, &QUICK).await?;
    for fault in [NetworkFault::CutOff, NetworkFault::Silent] {
        faulty.sqs.set(fault);
        let (status, answer) = faulty.send("refused").await?;
        ensure!(status == 503, "{fault:?}: {status} {answer}");
        ensure!(
            faulty.held().await? == (0, 0),
            "{fault:?}: nothing is left behind"
        );
        faulty.sqs.set(NetworkFault::None);
    }
    let id = faulty.relay.accept(&webhook("refused")).await?;
    faulty.relay.until_empty().await?;
    ensure!(
        faulty.relay.deliveries().into_iter().eq([(id, 1)]),
        "the sender's retry, and nothing else"
    );
    Ok(())
}

#[tokio::test]
async fn event_whose_queueing_was_unconfirmed_is_delivered_once_after_the_senders_retry()
-> Result<()> {
    let faulty = Faulty::start(Behaviour::Fine, &QUICK).await?;
    faulty.relay.set_delivering(false).await?;
    faulty.sqs.set(NetworkFault::AnswerLost);
    let (status, answer) = faulty.send("answer lost").await?;
    ensure!(status == 503, "{status} {answer}");
    let (queued, _) = faulty.held().await?;
    ensure!(queued >= 1, "it was queued");
    faulty.sqs.set(NetworkFault::None);
    let id = faulty.relay.accept(&webhook("answer lost")).await?;
    ensure!(faulty.held().await? == (queued + 1, 0), "and once more");
    faulty.relay.set_delivering(true).await?;
    faulty.relay.until_empty().await?;
    ensure!(
        faulty.relay.deliveries().into_iter().eq([(id.clone(), 1)]),
        "one event, once"
    );
    faulty.until_said(&id, "duplicate").await
}

#[tokio::test]
async fn dead_letter_whose_sending_was_unconfirmed_is_delivered_once() -> Result<()> {
    let faulty = Faulty::start(
        Behaviour::Status {
            code: 404,
            retry_after: None,
        },
        &QUICK,
    )
    .await?;
    // Read before the fault, since only the queues must fail.
    faulty.relay.accept(&webhook("before")).await?;
    faulty.relay.until_dead(1).await?;
    faulty.relay.set_delivering(false).await?;
    let id = faulty.relay.accept(&webhook("dead")).await?;
    faulty.sqs.set(NetworkFault::AnswerLost);
    faulty.relay.set_delivering(true).await?;
    let copies = "the dead letter is there, and the message still comes again";
    faulty
        .relay
        .stack
        .until_queues(copies, |counts| {
            counts.events.total() == 1 && counts.dead_letters.total() > 1
        })
        .await?;
    faulty.sqs.set(NetworkFault::None);
    wait::until("it is acknowledged", || async {
        Ok((faulty.held().await?.0 == 0).then_some(()))
    })
    .await?;
    ensure!(faulty.held().await?.1 > 2, "more than one copy");
    ensure!(
        faulty.relay.target.requests_of(&id).len() == 1,
        "only the sending is repeated"
    );

    faulty.relay.target.behave(Behaviour::Fine);
    let request =
        json!({ "action": "replay", "filter": { "statusCode": 404 }, "why": "it is there now" });
    faulty.relay.replay(request).await?;
    wait::until("both are delivered", || async {
        Ok((faulty.relay.deliveries().len() == 2).then_some(()))
    })
    .await?;
    wait::until("the copies are removed", || async {
        faulty
            .relay
            .replay(json!({ "action": "reconcile" }))
            .await?;
        Ok((faulty.held().await? == (0, 0)).then_some(()))
    })
    .await?;
    ensure!(
        faulty.relay.deliveries().into_values().eq([1, 1]),
        "each once"
    );
    Ok(())
}

#[tokio::test]
async fn a_replay_of_which_half_the_calls_fail_loses_nothing_and_delivers_nothing_twice()
-> Result<()> {
    let faulty = Faulty::start(
        Behaviour::Status {
            code: 404,
            retry_after: None,
        },
        &QUICK,
    )
    .await?;
    let relay = &faulty.relay;
    let ids = relay
        .accept_all((0..DEAD_LETTERS).map(|number| webhook(&format!("letter {number}"))))
        .await?;
    relay.until_dead(u32::try_from(ids.len())?).await?;
    relay.set_timeout(Function::Replay, SHORT_RUN).await?;
    relay.target.behave(Behaviour::Fine);
    let request =
        json!({ "action": "replay", "filter": { "statusCode": 404 }, "why": "over a bad line" });
    faulty.sqs.set(NetworkFault::Flaky);
    let mut sent = 0;
    for _ in 0..RUNS {
        // A run that fails has said so, and left what it did not send where it was.
        if let Ok(report) = relay.stack.invoke(Function::Replay, &request).await? {
            sent += report["replayed"].as_u64().unwrap_or_default();
        }
    }
    faulty.sqs.set(NetworkFault::None);
    wait::until(
        "the rest is brought back, and the copies are removed",
        || async {
            // What a run could not show again comes back when it would have ended.
            drop(relay.stack.invoke(Function::Replay, &request).await?);
            Ok((faulty.held().await? == (0, 0)).then_some(()))
        },
    )
    .await?;
    eprintln!(
        "{sent} of {DEAD_LETTERS} were replayed by {RUNS} runs under faults; {} requests harmed",
        faulty.sqs.harmed()
    );
    let deliveries = relay.deliveries();
    let lost: Vec<_> = ids
        .iter()
        .filter(|id| !deliveries.contains_key(*id))
        .collect();
    ensure!(lost.is_empty(), "{} are lost: {lost:?}", lost.len());
    ensure!(
        deliveries.values().all(|times| *times == 1),
        "each once: {deliveries:?}"
    );
    Ok(())
}
