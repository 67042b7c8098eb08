//! Acknowledgements while deliveries fail: ingest beside a processor that retries, over one
//! stand-in of SQS.
//!
//! Webhooks come at a fixed pace, in an open loop: an answer that is late delays the next webhook,
//! and counts there. Each accepted event goes to a queue in memory, which invokes the processor as
//! an event source mapping does, with what is due. A failed delivery is due again after two
//! seconds. Loads in which all deliveries succeed and in which most fail take turns.
//!
//! ingest shares its core with the sender and the stand-in of SQS alone, which wait for each other.
//! The processor, the table and the target have the other core: on AWS they would not compete with
//! SQS for CPU time either.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use local::runtime_api::FunctionProcess;
use local::target::Behaviour;
use serde_json::{Value, json};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::time::{Instant, sleep_until};

use crate::figures::{Figures, quantile};
use crate::lab::{Lab, TARGET_TIME, record};
use crate::measure::invoke;
use crate::process;
use crate::programs::{INGEST, PROCESSOR, Programs};

pub(crate) const HEALTHY: &str = "all deliveries succeed";
pub(crate) const FAILING: &str = "70 % of the deliveries fail";

pub(crate) const P50: &str = "ack p50 ms";
pub(crate) const P99: &str = "ack p99 ms";
pub(crate) const DELIVERIES: &str = "deliveries per event";
pub(crate) const RATIO: &str = "p99 against healthy";

/// Time between two webhooks.
const PACE: Duration = Duration::from_millis(10);

/// Time until a failed delivery is due again: no less than the backoff of this processor, which is
/// one second and at most one of jitter.
const RETRY: Duration = Duration::from_millis(2100);

/// Receives of an event, as the template has it.
const MAX_RECEIVES: u32 = 10;

/// Measures both loads in every round.
pub(crate) async fn measure(
    lab: &Lab,
    programs: &Programs,
    rounds: u32,
    webhooks: u32,
    figures: &mut Figures,
) -> Result<()> {
    for round in 1..=rounds {
        eprintln!("acks: round {round} of {rounds}");
        let mut p99 = Vec::new();
        for (row, behaviour) in [(HEALTHY, Behaviour::Fine), (FAILING, Behaviour::Fail(70))] {
            lab.target().behave(behaviour);
            let (took, deliveries) = load(lab, programs, webhooks).await?;
            let of = |share| quantile(&took, share).context("no webhooks");
            figures.add(row, P50, of(0.5)?);
            figures.add(row, P99, of(0.99)?);
            figures.add(row, DELIVERIES, deliveries);
            p99.push(of(0.99)?);
        }
        figures.add(FAILING, RATIO, p99[1] / p99[0]);
    }
    lab.target().behave(Behaviour::Slow(TARGET_TIME));
    Ok(())
}

/// Sends webhooks, and gives the times of the second half in milliseconds, when retries have set
/// in, and the deliveries made for each event.
async fn load(lab: &Lab, programs: &Programs, webhooks: u32) -> Result<(Vec<f64>, f64)> {
    let mut ingest = process::start(lab.launch(INGEST, programs)?).await?;
    let mut launch = lab.launch(PROCESSOR, programs)?;
    for name in ["BACKOFF_BASE_SECONDS", "BACKOFF_CAP_SECONDS"] {
        launch.environment.insert(name.to_owned(), "1".to_owned());
    }
    let starting = lab.beside()?.spawn(FunctionProcess::start(launch));
    let mut processor = starting.await??;
    ingest.init().await?;
    processor.init().await?;
    let (accepted, queue) = unbounded_channel();
    let sending = async {
        let mut took = Vec::new();
        let mut due = Instant::now();
        for _ in 0..webhooks {
            let is_late = due.elapsed() > Duration::ZERO;
            sleep_until(due).await;
            let began = if is_late { due } else { Instant::now() };
            invoke(&mut ingest, INGEST).await?;
            took.push(began.elapsed().as_secs_f64() * 1e3);
            accepted.send(())?;
            due += PACE;
        }
        anyhow::Ok(took.split_off(took.len() / 2))
    };
    let before = lab.target().requests().len();
    let mut delivering = lab.beside()?.spawn(deliver(processor, queue));
    process::join()?;
    let took = tokio::select! {
        took = sending => took,
        ended = &mut delivering => bail!("the deliveries ended: {ended:?}"),
    };
    process::leave()?;
    let took = took?;
    drop(accepted);
    delivering.await??;
    let deliveries = u32::try_from(lab.target().requests().len() - before)?;
    Ok((took, f64::from(deliveries) / f64::from(webhooks)))
}

/// Invokes the processor with what is due, as an event source mapping does, until the sender ends.
async fn deliver(
    mut processor: FunctionProcess,
    mut accepted: UnboundedReceiver<()>,
) -> Result<()> {
    // When a message is due, its number, and how often it was received.
    let mut queue: BinaryHeap<Reverse<(Instant, u128, u32)>> = BinaryHeap::new();
    let new = || Reverse((Instant::now(), fastrand::u128(..), 0));
    loop {
        let due = queue.peek().map(|Reverse((due, ..))| *due);
        tokio::select! {
            event = accepted.recv() => {
                if event.is_none() {
                    return Ok(());
                }
                queue.push(new());
            }
            () = sleep_until(due.unwrap_or_else(|| Instant::now() + RETRY)) => {}
        }
        while accepted.try_recv().is_ok() {
            queue.push(new());
        }
        let mut batch = Vec::new();
        while let Some(Reverse((due, number, receives))) = queue.peek().copied()
            && due <= Instant::now()
            && batch.len() < 10
        {
            queue.pop();
            batch.push((number, receives + 1));
        }
        if batch.is_empty() {
            continue;
        }
        let records: Vec<Value> = batch
            .iter()
            .map(|&(number, receives)| record(number, receives))
            .collect();
        let answer = processor
            .invoke(json!({ "Records": records }).to_string())
            .await?;
        let returned = answer.outcome.ok().context("the processor failed")?;
        let returned: Value = serde_json::from_slice(&returned)?;
        let failed = returned["batchItemFailures"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        for (number, receives) in batch {
            let id = format!("{number:032x}");
            if receives < MAX_RECEIVES && failed.iter().any(|it| it["itemIdentifier"] == id) {
                queue.push(Reverse((Instant::now() + RETRY, number, receives)));
            }
        }
    }
}
