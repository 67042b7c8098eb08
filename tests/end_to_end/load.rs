//! A thousand events, each sent twice, a target that fails at random, and a processor that is
//! killed all the time.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use jiff::Timestamp;
use local::genesys::Webhook;
use local::stack::Function;
use local::target::{Answer, Behaviour, ReceivedRequest};
use local::wait;
use serde_json::json;
use tokio::time::sleep;

use crate::Relay;
use crate::ledger::{
    CRASHED, Kept, Kill, answered, attempt_of, dead_letters, ended, kill_one, records, until,
};

const EVENTS: usize = 1000;
const BATCH: u32 = 10;
const PROCESSORS: u32 = 2;

/// Three failures in ten, and some receives that killed processes use up: now and then that is all.
const MAX_RECEIVES: u32 = 3;
const FAILING_PERCENT: u64 = 30;
const PROCESSOR_SECONDS: u32 = 5;
const PROCESSOR_TIME: Duration = Duration::from_secs(PROCESSOR_SECONDS as u64);

/// Between two kills.
const KILL_EVERY: Duration = Duration::from_millis(2500);

/// Decides by event and attempt alone, so that all runs are alike.
fn fail_at_random(request: &ReceivedRequest) -> Answer {
    let mut hasher = DefaultHasher::new();
    (&request.body[..], attempt_of(request)).hash(&mut hasher);
    let fails = hasher.finish() % 100 < FAILING_PERCENT;
    // Long enough for a kill to find deliveries under way.
    Answer {
        delay: Duration::from_millis(60),
        ..Answer::status(if fails { 500 } else { 200 })
    }
}

/// The same event as bytes of two kinds.
fn copies(number: usize) -> [Webhook; 2] {
    let first = format!(
        r#"{{"webhookId":"11111111-2222-4333-8444-555555555555","webhookName":"Bestellungen für alle","payload":{{"number":{number},"total":1.50}},"timestamp":"2026-01-15T12:00:00Z"}}"#
    );
    let again = format!(
        r#"{{ "timestamp": "2026-01-15T12:00:00Z", "payload": {{ "total": 1.5, "number": {number} }},
  "webhookName": "Bestellungen f\u00fcr alle", "webhookId": "11111111-2222-4333-8444-555555555555" }}"#
    );
    let second = if number.is_multiple_of(2) {
        again
    } else {
        first.clone()
    };
    [first, second].map(Webhook::with_shared_secret)
}

/// Sends every event twice, in an order that has nothing to do with their numbers, and gives the
/// ids.
async fn send_all_twice(relay: &Relay) -> Result<BTreeSet<String>> {
    let mut webhooks: Vec<_> = (0..EVENTS)
        .flat_map(|number| copies(number).map(|webhook| (number, webhook)))
        .collect();
    fastrand::Rng::with_seed(3).shuffle(&mut webhooks);
    let (numbers, webhooks): (Vec<_>, Vec<_>) = webhooks.into_iter().unzip();
    let ids = relay.accept_all(webhooks).await?;
    let mut by_number: BTreeMap<usize, BTreeSet<String>> = BTreeMap::new();
    for (number, id) in numbers.into_iter().zip(ids) {
        by_number.entry(number).or_default().insert(id);
    }
    ensure!(
        by_number.values().all(|ids| ids.len() == 1),
        "both copies have one id"
    );
    Ok(by_number.into_values().flatten().collect())
}

/// Kills one process of the processor after the other, for as long as there is much to do, and says
/// when.
async fn kill_until(relay: &Relay, enough: &AtomicBool) -> Result<Vec<Kill>> {
    let mut kills = Vec::new();
    let mut rng = fastrand::Rng::with_seed(3);
    while !enough.load(Ordering::Relaxed) {
        sleep(KILL_EVERY).await;
        kills.extend(kill_one(relay, Function::Processor, &mut rng)?);
    }
    Ok(kills)
}

/// Lets `reconcile` write down what crashes have left unsaid, until each record says how its event
/// has ended.
async fn until_reconciled(relay: &Relay) -> Result<BTreeMap<String, Kept>> {
    wait::until("each event is delivered or dead", || async {
        let answer = relay.replay(json!({ "action": "reconcile" })).await?;
        ensure!(answer["failures"] == 0, "{answer}");
        let records = records(relay).await?;
        let open: Vec<_> = records
            .values()
            .filter(|record| !["DELIVERED", "DEAD"].contains(&record.state.as_str()))
            .collect();
        let now = Timestamp::now().as_millisecond();
        let stuck = open.iter().find(|kept| {
            kept.state == "IN_PROGRESS" && kept.lease_until.is_none_or(|end| end > now)
        });
        ensure!(
            stuck.is_none(),
            "nothing is under way, and still it is leased: {stuck:?}"
        );
        eprintln!(
            "reconcile: {} recorded, {} copies removed",
            answer["recorded"], answer["removed"]
        );
        Ok(open.is_empty().then_some(records))
    })
    .await
}

/// Attempts that crashed, by the records.
#[derive(Debug, Default)]
struct Tally {
    /// Attempts whose processor ended before it could say how they went.
    crashed: usize,
    /// Those of them that the target had answered with 2xx already: their events are delivered
    /// again.
    unheard: usize,
    /// Attempts that were given up before the target's 2xx came.
    late: usize,
}

/// Holds the records against what the target saw: each event is delivered once as far as the relay
/// decides, and what the target took more often was cut off by a kill.
fn tally(relay: &Relay, records: &BTreeMap<String, Kept>, kills: &[Kill]) -> Result<Tally> {
    let (killed, timed_out) = (
        ended(relay, "Runtime exited")?,
        ended(relay, "Task timed out")?,
    );
    let answered = answered(relay);
    let mut tally = Tally::default();
    for (id, kept) in records {
        ensure!(
            kept.attempts.len() == kept.attempts_made,
            "all attempts are remembered: {kept:?}"
        );
        ensure!(
            kept.deliveries() == usize::from(kept.state == "DELIVERED"),
            "not once: {kept:?}"
        );
        for (number, attempt) in (1..).zip(&kept.attempts) {
            let has_arrived = answered
                .get(id)
                .is_some_and(|attempts| attempts.contains(&number));
            if attempt.error.as_deref() == Some(CRASHED) {
                tally.crashed += 1;
                tally.unheard += usize::from(has_arrived);
                // A machine that is too busy to let the processor end in time is as good as a kill.
                let cut_off = |kill: &Kill| kill.can_have_ended(attempt.at, PROCESSOR_TIME);
                ensure!(
                    timed_out > 0 || kills.iter().any(cut_off),
                    "no kill explains attempt {number} of {kept:?}"
                );
            } else if attempt.status.is_none() {
                // No answer came in time, on a busy machine.
                tally.late += usize::from(has_arrived);
            } else {
                ensure!(
                    has_arrived == (attempt.status == Some(200)),
                    "attempt {number} of {kept:?}"
                );
            }
        }
    }
    let in_batches = (killed + timed_out) * BATCH as usize;
    ensure!(
        tally.crashed <= in_batches,
        "{tally:?}, but {killed} batches were killed, and {timed_out} timed out"
    );
    Ok(tally)
}

#[tokio::test]
async fn two_thousand_messages_of_a_thousand_events_are_delivered_once_while_processors_die()
-> Result<()> {
    let parameters = [
        ("MaximumConcurrency", PROCESSORS),
        ("BatchSize", BATCH),
        ("ProcessorTimeoutSeconds", PROCESSOR_SECONDS),
        ("MaxReceiveCount", MAX_RECEIVES),
        ("BackoffBaseSeconds", 1),
        ("BackoffCapSeconds", 4),
    ];
    let relay = Relay::start(Behaviour::script(fail_at_random), &parameters).await?;
    let began = Instant::now();
    let enough = AtomicBool::new(false);
    let (ids, kills, ()) =
        tokio::try_join!(send_all_twice(&relay), kill_until(&relay, &enough), async {
            let most = async || Ok(relay.deliveries().len() > EVENTS * 9 / 10);
            let outcome = until(&relay, "most are delivered", most).await;
            enough.store(true, Ordering::Relaxed);
            outcome
        })?;
    assert_eq!(ids.len(), EVENTS);
    assert!(kills.len() >= 3, "{} kills", kills.len());
    let most = began.elapsed();
    let nothing_to_do = async || Ok(relay.stack.queue_counts().await?.events.total() == 0);
    until(&relay, "no event is under way", nothing_to_do).await?;
    let all = began.elapsed();
    let ended = until_reconciled(&relay).await?;

    assert_eq!(
        ended.keys().collect::<Vec<_>>(),
        ids.iter().collect::<Vec<_>>(),
        "each event has its record"
    );
    let is_dead = |kept: &&Kept| kept.state == "DEAD";
    let dead: BTreeSet<_> = ended
        .values()
        .filter(is_dead)
        .map(|kept| kept.event_id.clone())
        .collect();
    assert_eq!(
        dead_letters(&relay).await?,
        dead,
        "each dead event has its dead letter, and no other has one"
    );
    let Tally {
        crashed,
        unheard,
        late,
    } = tally(&relay, &ended, &kills)?;
    let reasons: Vec<_> = ended
        .values()
        .filter(is_dead)
        .filter_map(|kept| kept.reason.as_deref())
        .collect();
    eprintln!(
        "{} messages: nine tenths of the events in {most:.1?}, all in {all:.1?}; {} deliveries, {} kills, {crashed} \
         attempts crashed, of which {unheard} had got a 2xx; {late} answers came too late; dead: {reasons:?}",
        EVENTS * 2,
        relay.target.requests().len(),
        kills.len(),
    );

    relay.target.behave(Behaviour::Fine);
    relay
        .replay(json!({ "action": "replay", "all": true, "why": "the target is well again" }))
        .await?;
    relay.until_empty().await?;
    let kept = records(&relay).await?;
    assert!(
        kept.values()
            .all(|kept| kept.state == "DELIVERED" && kept.deliveries() == 1),
        "and so are the dead in the end"
    );
    Ok(())
}
