//! From the webhook to the target, beside the first tutorial's design: how fast a webhook is
//! acknowledged, whether failing deliveries slow that down, and what a SIGKILL loses.
//!
//! Both programs get the same webhooks at the same pace, in an open loop: the next one goes out
//! when it is due, answered or not, and its answer took the time since then. Both make four
//! attempts at a delivery, 2, 4 and 8 seconds apart, so that of deliveries that fail with 70 %
//! each, 76 % of the events come through and the rest are dead letters.
//!
//! The relay runs on the local AWS, a program in Python that shares the cores with the functions,
//! the sender and the target, and that does the work of API Gateway, Lambda, SQS and DynamoDB in
//! one process. Most of what the relay's row says is its doing, and nothing of it can be carried
//! over to AWS. Two more rows show how much:
//!
//! - [`IDLE`]: webhooks without a body, which ingest refuses by itself (400), while nothing is
//!   delivered. That is the way through the local AWS to ingest and back, without SQS.
//! - [`DELIVERING`]: the same, while as many events are put into the queue past ingest, and
//!   delivered. What it takes longer while deliveries fail is no work of ingest: nothing that fails
//!   comes its way, and these do not even reach the queue.
//!
//! `service.py` has none of that in its way, so its acknowledgements are faster here; on AWS it
//! would have a load balancer. The pace is one that the local AWS keeps up with, and far from what
//! either program can take. So this does not show what happens to the service at its limit, where
//! retries and acknowledgements compete for its only core.
//!
//! On each local AWS the healthy load comes first, and it gets slower with what it holds: that is
//! to the relay's disadvantage.
//!
//! For [`LOST`], half-way through a load of which 70 % fail, all processes of ingest and of the
//! processor, or the one of the service, are killed, and the load goes on. What then was
//! acknowledged and is neither at the target nor a dead letter is lost. A webhook that gets no
//! answer is not acknowledged: its sender still has it.

pub(crate) mod load;
mod receiver;
pub(crate) mod relay;
mod service;

use std::collections::BTreeSet;
use std::ops::Range;

use anyhow::{Context as _, Result, ensure};
use local::genesys::Webhook;
use local::target::Behaviour;
use tokio::time::{Instant, sleep, sleep_until};

use self::load::{Load, PACE, taken, webhook};
use self::receiver::Receiver;
use self::relay::Relay;
use self::service::Service;
use crate::figures::{Figures, Samples};
use crate::ingest::Effort;
use crate::programs::Programs;

/// The local AWS by itself.
pub(crate) const IDLE: &str = "local AWS, idle";

/// The local AWS by itself, while it delivers.
pub(crate) const DELIVERING: &str = "local AWS, delivering";

/// The rows of the table.
pub(crate) const PROGRAMS: [&str; 4] = [Relay::NAME, Service::NAME, IDLE, DELIVERING];

pub(crate) const P50: &str = "ack p50 ms";
pub(crate) const P99: &str = "ack p99 ms";
pub(crate) const FAILING_P99: &str = "ack p99 ms while 70 % fail";
pub(crate) const RATIO: &str = "p99 ratio";
pub(crate) const DELIVERED: &str = "delivered of acked %, while 70 % fail";
pub(crate) const LOST: &str = "lost on SIGKILL";
pub(crate) const LOST_SHARE: &str = "lost of acked %";

/// The columns of the table.
pub(crate) const FIGURES: [&str; 7] = [P50, P99, FAILING_P99, RATIO, DELIVERED, LOST, LOST_SHARE];

/// Of a hundred deliveries, how many fail.
const FAILING: u8 = 70;

/// Webhooks at the start of each round that open connections and start processes.
const WARM_UP: u64 = 20;

/// Webhooks of one load at most: three rounds take eight minutes.
const LOAD_AT_MOST: u64 = 250;

/// Numbers that no webhook had before.
struct Numbers(u64);

impl Numbers {
    fn take(&mut self, count: u64) -> Range<u64> {
        let from = self.0;
        self.0 += count;
        from..self.0
    }
}

/// Measures both programs, and the local AWS by itself, in every round.
pub(crate) async fn measure(programs: &Programs, effort: Effort) -> Result<Figures> {
    let mut figures = Figures::default();
    // A load takes its time whatever is measured in it: fewer rounds, and longer ones.
    let rounds = effort.rounds.div_ceil(5);
    let count = u64::try_from(effort.invocations)?
        .saturating_mul(4)
        .min(LOAD_AT_MOST);
    let mut numbers = Numbers(fastrand::u64(..1 << 50));
    for round in 1..=rounds {
        eprintln!(
            "journey: round {round} of {rounds}, {count} webhooks per load, one each {} ms",
            PACE.as_millis()
        );
        let (mut relay, mut service) = (
            Relay::start(programs).await?,
            Service::start(programs).await?,
        );
        deliver(&mut relay, numbers.take(WARM_UP), Behaviour::Fine).await?;
        deliver(&mut service, numbers.take(WARM_UP), Behaviour::Fine).await?;

        eprintln!("  {IDLE}");
        let idle = refuse(&relay, numbers.take(count)).await?;

        eprintln!("  all deliveries succeed");
        let relays = healthy(&mut relay, numbers.take(count), &mut figures).await?;
        let services = healthy(&mut service, numbers.take(count), &mut figures).await?;
        let alone = beside(&mut relay, &mut numbers, count, Behaviour::Fine).await?;
        figures.add(IDLE, P50, quantile(&idle, 0.5)?);
        figures.add(IDLE, P99, quantile(&idle, 0.99)?);
        figures.add(DELIVERING, P50, quantile(&alone, 0.5)?);
        let alone = quantile(&alone, 0.99)?;
        figures.add(DELIVERING, P99, alone);

        eprintln!("  {FAILING} % of the deliveries fail");
        failing(&mut relay, numbers.take(count), relays, &mut figures).await?;
        failing(&mut service, numbers.take(count), services, &mut figures).await?;
        let beside_failing =
            beside(&mut relay, &mut numbers, count, Behaviour::Fail(FAILING)).await?;
        add_failing(DELIVERING, &beside_failing, alone, &mut figures)?;

        let lost = killed(&mut relay, numbers.take(count), &mut figures).await?;
        if !lost.is_empty() {
            eprintln!("  THE RELAY LOST ACKNOWLEDGED EVENTS, those with the numbers {lost:?}");
        }
        killed(&mut service, numbers.take(count), &mut figures).await?;
    }
    Ok(figures)
}

fn quantile(samples: &Samples, share: f64) -> Result<f64> {
    samples.quantile(share).context("nothing was sent")
}

/// Outcome of the acknowledged events of a load.
struct Ends {
    acknowledged: BTreeSet<u64>,
    delivered: BTreeSet<u64>,
    lost: BTreeSet<u64>,
}

impl Ends {
    /// Waits for the ends, and finds them.
    async fn of(load: &Load, receiver: &mut impl Receiver) -> Result<Self> {
        receiver.settle().await?;
        let acknowledged = load.answered(200);
        let (taken, dead) = (taken(receiver.target().requests()), receiver.dead().await?);
        let delivered: BTreeSet<u64> = acknowledged.intersection(&taken).copied().collect();
        let lost = acknowledged
            .iter()
            .filter(|number| !taken.contains(number) && !dead.contains(number))
            .copied();
        Ok(Self {
            lost: lost.collect(),
            delivered,
            acknowledged,
        })
    }

    /// The share of some of them, in percent.
    fn percent(&self, some: &BTreeSet<u64>) -> Result<f64> {
        let [some, all] =
            [some.len(), self.acknowledged.len()].map(|count| u32::try_from(count).map(f64::from));
        Ok(some? / all? * 100.0)
    }
}

/// A load without a crash: all is acknowledged, and nothing lost.
async fn deliver<R: Receiver>(
    receiver: &mut R,
    numbers: Range<u64>,
    behaviour: Behaviour,
) -> Result<(Samples, Ends)> {
    receiver.target().behave(behaviour);
    let load = Load::send(receiver.url(), numbers, webhook).await;
    ensure!(
        load.is_all(200),
        "{} did not acknowledge all webhooks: {load:?}",
        R::NAME
    );
    let ends = Ends::of(&load, receiver).await?;
    ensure!(
        ends.lost.is_empty(),
        "{} lost {:?} without a crash",
        R::NAME,
        ends.lost
    );
    Ok((load.millis(), ends))
}

/// All deliveries succeed. Gives the p99.
async fn healthy<R: Receiver>(
    receiver: &mut R,
    numbers: Range<u64>,
    figures: &mut Figures,
) -> Result<f64> {
    let (millis, ends) = deliver(receiver, numbers, Behaviour::Fine).await?;
    ensure!(
        ends.delivered == ends.acknowledged,
        "{}: the target took not all although it is fine",
        R::NAME
    );
    let p99 = quantile(&millis, 0.99)?;
    figures.add(R::NAME, P50, quantile(&millis, 0.5)?);
    figures.add(R::NAME, P99, p99);
    Ok(p99)
}

/// Most deliveries fail.
async fn failing<R: Receiver>(
    receiver: &mut R,
    numbers: Range<u64>,
    p99: f64,
    figures: &mut Figures,
) -> Result<()> {
    let (millis, ends) = deliver(receiver, numbers, Behaviour::Fail(FAILING)).await?;
    figures.add(R::NAME, DELIVERED, ends.percent(&ends.delivered)?);
    add_failing(R::NAME, &millis, p99, figures)
}

fn add_failing(
    program: &str,
    millis: &Samples,
    healthy_p99: f64,
    figures: &mut Figures,
) -> Result<()> {
    let p99 = quantile(millis, 0.99)?;
    figures.add(program, FAILING_P99, p99);
    figures.add(program, RATIO, p99 / healthy_p99);
    Ok(())
}

/// Webhooks that ingest refuses by itself.
async fn refuse(relay: &Relay, numbers: Range<u64>) -> Result<Samples> {
    let load = Load::send(relay.url(), numbers, |_| Webhook::with_shared_secret("")).await;
    ensure!(
        load.is_all(400),
        "ingest did not refuse all empty bodies: {load:?}"
    );
    Ok(load.millis())
}

/// The same, while as many events get into the queue past ingest and are delivered.
async fn beside(
    relay: &mut Relay,
    numbers: &mut Numbers,
    count: u64,
    behaviour: Behaviour,
) -> Result<Samples> {
    relay.target().behave(behaviour);
    let (refused, events) = (numbers.take(count), numbers.take(count));
    let enqueue = async {
        let (sqs, queue) = (relay.stack.sqs(), relay.stack.output("QueueUrl")?);
        let mut due = Instant::now();
        for number in events {
            sleep_until(due).await;
            let body = String::from_utf8(webhook(number).body)?;
            sqs.send_message()
                .queue_url(queue)
                .message_body(body)
                .send()
                .await?;
            due += PACE;
        }
        anyhow::Ok(())
    };
    let (millis, ()) = tokio::try_join!(refuse(relay, refused), enqueue)?;
    relay.settle().await?;
    Ok(millis)
}

/// Half-way through a load of which most deliveries fail, everything is killed. Gives what is lost.
async fn killed<R: Receiver>(
    receiver: &mut R,
    numbers: Range<u64>,
    figures: &mut Figures,
) -> Result<BTreeSet<u64>> {
    receiver.target().behave(Behaviour::Fail(FAILING));
    let (url, middle, sent) = (
        receiver.url().to_owned(),
        load::length(&numbers) / 2,
        numbers.end - numbers.start,
    );
    let crash = async {
        sleep(middle).await;
        receiver.crash().await
    };
    let (load, crashed) = tokio::join!(Load::send(&url, numbers, webhook), crash);
    crashed?;
    let ends = Ends::of(&load, receiver).await?;
    eprintln!(
        "  {}: {} of {sent} acknowledged, {} lost",
        R::NAME,
        ends.acknowledged.len(),
        ends.lost.len()
    );
    figures.add(R::NAME, LOST, f64::from(u32::try_from(ends.lost.len())?));
    figures.add(R::NAME, LOST_SHARE, ends.percent(&ends.lost)?);
    Ok(ends.lost)
}
