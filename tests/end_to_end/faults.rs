//! A network and a target that fail in every way they can, one at a time.

use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use local::faulty_proxy::{FaultyProxy, NetworkFault};
use local::stack::{Function, Service};
use local::target::{Answer, Behaviour, Fault, ReceivedRequest};
use local::wait;
use serde_json::{Value, json};

use crate::relay::{QUICK, REFUSED, RETRIES, Relay, assert_has, name_of, peak_memory, webhook};

/// A target that is not waited for, and leases of ten seconds.
const IMPATIENT: [(&str, &str); 4] = [QUICK[0], QUICK[1], QUICK[2], ("TargetTimeoutSeconds", "2")];

/// Time to change something while a delivery is in flight.
const PATIENT: [(&str, &str); 4] = [
    RETRIES[0],
    RETRIES[1],
    ("ProcessorTimeoutSeconds", "10"),
    ("TargetTimeoutSeconds", "5"),
];

/// Most additional memory of the processor for large answers: less than the size of one.
const MORE_MEMORY: u64 = 8 * 1024 * 1024;

/// Dead letters to be replayed, in batches of ten, and number of runs under faults.
const DEAD_LETTERS: usize = 60;
const RUNS: usize = 8;

/// Seconds of an invocation of replay: messages that it could not show again are hidden for half a
/// minute longer.
const SHORT_RUN: i32 = 10;

/// A relay whose functions reach the queues and the table through proxies with faults.
pub(crate) struct Faulty {
    pub(crate) relay: Relay,
    pub(crate) sqs: Arc<FaultyProxy>,
    pub(crate) dynamodb: Arc<FaultyProxy>,
}

impl Faulty {
    /// Starts one that recovers from the log of webhook deliveries, by hand.
    pub(crate) async fn start(behaviour: Behaviour, parameters: &[(&str, &str)]) -> Result<Self> {
        let sqs = Arc::new(FaultyProxy::start().await?);
        let dynamodb = Arc::new(FaultyProxy::start().await?);
        let ways = [(Service::Sqs, &sqs), (Service::DynamoDb, &dynamodb)];
        let source = ("RecoverySource", "webhook-deliveries");
        let parameters = [parameters, &[source]].concat();
        let relay = Relay::start_through(&ways, behaviour, &parameters).await?;
        Ok(Self {
            relay,
            sqs,
            dynamodb,
        })
    }

    /// Waits until the processor has logged this about an event.
    async fn until_said(&self, id: &str, message: &str) -> Result<()> {
        let is_it = |line: &Value| {
            let text = line["message"].as_str().unwrap_or_default();
            line["event_id"] == id && text.starts_with(message)
        };
        let wait = self
            .relay
            .until_logged(Function::Processor, 1, message, is_it);
        wait.await.map(drop)
    }
}

/// Waits until a proxy has harmed more connections than it had.
async fn until_harmed(proxy: &FaultyProxy, before: usize) -> Result<()> {
    wait::until("a connection meets the fault", || async {
        Ok((proxy.harmed() > before).then_some(()))
    })
    .await
}

/// Waits until neither queue holds a message, and answers held deliveries meanwhile.
async fn release_until_empty(relay: &Relay) -> Result<()> {
    let is_empty = |counts: local::stack::QueueCounts| {
        relay.target.release();
        counts.events.total() + counts.dead_letters.total() == 0
    };
    relay
        .stack
        .until_queues("both queues are empty", is_empty)
        .await
        .map(drop)
}

/// Treats events as their names say, the first time.
fn as_named_at_first(request: &ReceivedRequest) -> Answer {
    let name = name_of(&request.body);
    let fault = Fault::ALL
        .into_iter()
        .find(|fault| name.starts_with(fault.name()));
    // A large answer is no failure, and comes each time.
    fault
        .filter(|fault| request.nth == 1 || *fault == Fault::Large)
        .map_or(Answer::status(200), Answer::fault)
}

#[tokio::test]
async fn broken_http_is_tried_again_and_costs_no_memory() -> Result<()> {
    let relay = Relay::start(Behaviour::Fine, &PATIENT).await?;
    let batch = |name: &str| {
        let name = name.to_owned();
        (0..10).map(move |number| webhook(&format!("{name} {number}")))
    };
    relay.accept_all(batch("small")).await?;
    relay.until_empty().await?;
    let before = peak_memory(&relay, Function::Processor)?;
    ensure!(before > 0, "a processor is there");
    relay.target.behave(Behaviour::script(as_named_at_first));
    relay.accept_all(batch(Fault::Large.name())).await?;
    relay
        .accept_all(batch(Fault::EndlessHeaders.name()))
        .await?;
    relay.until_empty().await?;
    let after = peak_memory(&relay, Function::Processor)?;
    ensure!(
        after < before + MORE_MEMORY,
        "{before} bytes before, {after} after"
    );
    let deliveries = relay.deliveries();
    let is_once = deliveries.len() == 30 && deliveries.values().all(|times| *times == 1);
    ensure!(is_once, "{deliveries:?}");

    relay.target.behave(Behaviour::Wire(Fault::ResetUnread));
    let unread = relay.accept(&webhook("reset-unread")).await?;
    wait::until("an attempt failed", || async {
        // It has no record before it is claimed.
        let record = relay.record(&unread).await?;
        Ok(record.filter(|record| !record.attempts.is_empty()))
    })
    .await?;
    relay.target.behave(Behaviour::script(as_named_at_first));
    let mut faults = Fault::ALL.to_vec();
    faults.retain(|fault| *fault != Fault::ResetUnread);
    let ids = relay
        .accept_all(faults.iter().map(|fault| webhook(fault.name())))
        .await?;
    relay.until_empty().await?;
    assert_has(&relay.show(&unread).await?, json!({ "state": "DELIVERED" }));
    for (fault, id) in faults.into_iter().zip(ids) {
        let shown = relay.show(&id).await?;
        assert_has(&shown, json!({ "state": "DELIVERED" }));
        let attempts = shown["attempts"].as_array().context("attempts")?;
        let error = attempts[0]["error"].as_str().unwrap_or_default();
        let (tries, beginning) = match fault {
            Fault::Trickle => (2, "the target did not answer in time"),
            Fault::Reset | Fault::Garbage | Fault::BadLength | Fault::EndlessHeaders => {
                (2, "the target cannot be reached")
            }
            // A status counts, whatever follows it.
            Fault::Short | Fault::Large | Fault::EndlessBody => (1, ""),
            Fault::ResetUnread => unreachable!("left out above"),
        };
        let status = if tries == 1 { json!(200) } else { Value::Null };
        ensure!(
            attempts.len() == tries && attempts[0]["statusCode"] == status,
            "{fault}: {shown}"
        );
        ensure!(error.starts_with(beginning), "{fault}: {shown}");
        ensure!(
            relay.target.requests_of(&id).len() == tries,
            "{fault}: {tries}"
        );
    }
    Ok(())
}

/// On one relay: the table and the queue fail in turn.
#[tokio::test]
async fn without_table_or_queue_nothing_is_lost() -> Result<()> {
    let faulty = Faulty::start(Behaviour::Fine, &IMPATIENT).await?;
    nothing_is_delivered_without_the_table(&faulty).await?;
    nothing_is_accepted_without_the_queue(&faulty).await?;
    an_event_whose_queueing_was_unconfirmed_is_delivered_once(&faulty).await
}

async fn nothing_is_delivered_without_the_table(faulty: &Faulty) -> Result<()> {
    let relay = &faulty.relay;
    for (fault, name) in [
        (NetworkFault::CutOff, "cut off"),
        (NetworkFault::Silent, "silent"),
        (NetworkFault::AnswerLost, "claimed, answer lost"),
    ] {
        faulty.dynamodb.set(fault);
        let before = faulty.dynamodb.harmed();
        let id = relay.accept(&webhook(name)).await?;
        until_harmed(&faulty.dynamodb, before + 1).await?;
        ensure!(
            relay.target.requests_of(&id).is_empty(),
            "{name}: delivered without a claim"
        );
        ensure!(relay.held().await? == (1, 0), "{name}: kept");
        faulty.dynamodb.set(NetworkFault::None);
        relay.until_empty().await?;
        ensure!(relay.deliveries().get(&id) == Some(&1), "{name}: once");
        assert_has(&relay.show(&id).await?, json!({ "state": "DELIVERED" }));
    }
    Ok(())
}

async fn nothing_is_accepted_without_the_queue(faulty: &Faulty) -> Result<()> {
    let relay = &faulty.relay;
    for fault in [NetworkFault::CutOff, NetworkFault::Silent] {
        faulty.sqs.set(fault);
        let (status, answer) = relay.send(&webhook("refused")).await?;
        ensure!(status == 503, "{fault:?}: {status} {answer}");
        assert_has(&answer, json!({ "title": "Service Unavailable" }));
        ensure!(
            relay.held().await? == (0, 0),
            "{fault:?}: nothing is left behind"
        );
        faulty.sqs.set(NetworkFault::None);
    }
    let id = relay.accept(&webhook("refused")).await?;
    relay.until_empty().await?;
    ensure!(
        relay.answers(&id) == [Some(200)],
        "the sender's retry, and nothing else"
    );
    Ok(())
}

async fn an_event_whose_queueing_was_unconfirmed_is_delivered_once(faulty: &Faulty) -> Result<()> {
    let relay = &faulty.relay;
    relay.set_delivering(false).await?;
    faulty.sqs.set(NetworkFault::AnswerLost);
    let (status, answer) = relay.send(&webhook("answer lost")).await?;
    ensure!(status == 503, "{status} {answer}");
    let (queued, _) = relay.held().await?;
    ensure!(queued >= 1, "it was queued");
    faulty.sqs.set(NetworkFault::None);
    let id = relay.accept(&webhook("answer lost")).await?;
    ensure!(relay.held().await? == (queued + 1, 0), "and once more");
    relay.set_delivering(true).await?;
    relay.until_empty().await?;
    ensure!(relay.answers(&id) == [Some(200)], "one event, once");
    faulty.until_said(&id, "duplicate").await
}

/// Log line of a delivery that no record has.
const UNRECORDED: &str = "failed to record the delivery; the target will receive the event again";

#[tokio::test]
async fn a_delivery_is_recorded_when_the_table_answers_again_or_repeated() -> Result<()> {
    let faulty = Faulty::start(Behaviour::script(|_| Answer::held(200)), &PATIENT).await?;
    let relay = &faulty.relay;
    for (fault, name) in [
        (NetworkFault::CutOff, "cut off"),
        (NetworkFault::AnswerLost, "recorded, answer lost"),
    ] {
        let id = relay.accept(&webhook(name)).await?;
        relay
            .until_at_target(|request| request.event_id == id)
            .await?;
        faulty.dynamodb.set(fault);
        let before = faulty.dynamodb.harmed();
        relay.target.release();
        until_harmed(&faulty.dynamodb, before).await?;
        faulty.dynamodb.set(NetworkFault::None);
        release_until_empty(relay).await?;
        let shown = relay.show(&id).await?;
        assert_has(&shown, json!({ "state": "DELIVERED" }));
        // Too busy a machine leaves no time to record it: the processor says so.
        let lines = relay.stack.log_lines(Function::Processor, 0).await?;
        let is_late = lines.iter().any(|line| {
            line.content["event_id"] == id.as_str() && line.content["message"] == UNRECORDED
        });
        ensure!(
            is_late || relay.deliveries().get(&id) == Some(&1),
            "{name}: once"
        );
    }

    let id = relay.accept(&webhook("unrecorded")).await?;
    relay
        .until_at_target(|request| request.event_id == id)
        .await?;
    faulty.dynamodb.set(NetworkFault::Silent);
    relay.target.release();
    faulty.until_said(&id, UNRECORDED).await?;
    ensure!(relay.held().await? == (1, 0), "not acknowledged");
    faulty.dynamodb.set(NetworkFault::None);
    release_until_empty(relay).await?;
    ensure!(relay.deliveries().get(&id) == Some(&2), "in doubt twice");
    let requests = relay.target.requests_of(&id);
    ensure!(
        requests
            .iter()
            .all(|it| it.headers["idempotency-key"] == id.as_str()),
        "one key"
    );
    let shown = relay.show(&id).await?;
    assert_has(
        &shown,
        json!({ "state": "DELIVERED", "/attempts/1/statusCode": 200 }),
    );
    Ok(())
}

#[tokio::test]
async fn dead_letter_whose_sending_was_unconfirmed_is_delivered_once() -> Result<()> {
    let faulty = Faulty::start(REFUSED, &IMPATIENT).await?;
    let relay = &faulty.relay;
    // Warm before the fault, since only the queues must fail.
    let before = relay.accept_dead(["before"]).await?.remove(0);
    relay.set_delivering(false).await?;
    let id = relay.accept(&webhook("dead")).await?;
    faulty.sqs.set(NetworkFault::AnswerLost);
    relay.set_delivering(true).await?;
    let copies = "the dead letter is there, and the message still comes again";
    let are_there = |counts: local::stack::QueueCounts| {
        counts.events.total() == 1 && counts.dead_letters.total() > 1
    };
    relay.stack.until_queues(copies, are_there).await?;
    faulty.sqs.set(NetworkFault::None);
    wait::until("it is acknowledged", || async {
        Ok((relay.held().await?.0 == 0).then_some(()))
    })
    .await?;
    ensure!(relay.held().await?.1 > 2, "more than one copy");
    ensure!(
        relay.target.requests_of(&id).len() == 1,
        "only the sending is repeated"
    );

    relay.target.behave(Behaviour::Fine);
    let request = json!({ "action": "replay", "filter": { "statusCode": 404 } });
    relay.replay(request).await?;
    wait::until("both are delivered", || async {
        Ok((relay.deliveries().len() == 2).then_some(()))
    })
    .await?;
    wait::until("the copies are removed", || async {
        relay.replay(json!({ "action": "reconcile" })).await?;
        Ok((relay.held().await? == (0, 0)).then_some(()))
    })
    .await?;
    relay.assert_delivered_once(&[before, id]);
    half_the_calls_of_a_replay_fail_and_nothing_is_lost(&faulty).await
}

async fn half_the_calls_of_a_replay_fail_and_nothing_is_lost(faulty: &Faulty) -> Result<()> {
    let relay = &faulty.relay;
    relay.target.behave(REFUSED);
    let names = (0..DEAD_LETTERS).map(|number| format!("letter {number}"));
    let ids = relay.accept_dead(names).await?;
    relay.set_timeout(Function::Replay, SHORT_RUN).await?;
    relay.target.behave(Behaviour::Fine);
    let request = json!({ "action": "replay", "filter": { "statusCode": 404 } });
    faulty.sqs.set(NetworkFault::Flaky);
    for _ in 0..RUNS {
        // A run that fails leaves what it did not send where it was.
        drop(relay.stack.invoke(Function::Replay, &request).await?);
    }
    faulty.sqs.set(NetworkFault::None);
    wait::until(
        "the rest is brought back, and the copies are removed",
        || async {
            // Messages that a run could not show again come back when it would have ended.
            drop(relay.stack.invoke(Function::Replay, &request).await?);
            Ok((relay.held().await? == (0, 0)).then_some(()))
        },
    )
    .await?;
    let deliveries = relay.deliveries();
    for id in ids {
        ensure!(
            deliveries.get(&id) == Some(&1),
            "{id}: {:?}",
            deliveries.get(&id)
        );
    }
    Ok(())
}
