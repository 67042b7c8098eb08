//! `Order=conversation`: the target accepts the events of a conversation in the order in which
//! ingest accepted them, and an event that does not come in its place is marked.

mod beside;
mod conversations;
mod endings;
mod switching;

use std::convert::Infallible;
use std::fmt;
use std::future::pending;
use std::time::Duration;

use anyhow::{Result, ensure};
use local::stack::Function;
use local::target::Behaviour;
use serde_json::json;
use tokio::time::sleep;

use self::conversations::{Conversations, Tally};
pub(crate) use self::conversations::{mark_of, message, text_of};
use crate::ledger::{self, CRASHED};
use crate::relay::{QUICK, Relay};

const CONVERSATIONS: usize = 10;
const MESSAGES: usize = 10;

const KILLS: usize = 6;
const BETWEEN_KILLS: Duration = Duration::from_secs(3);

/// Events of a killed processor come back after so many seconds: later than their lease ends.
const VISIBILITY_SECONDS: u32 = 12;

/// No event fails for long enough to leave the line.
const NEVER_LATE: [(&str, &str); 4] = [
    ("Breaker", "on"),
    ("TargetTimeoutSeconds", "2"),
    ("MaxReceiveCount", "25"),
    ("OrderPatienceSeconds", "900"),
];

/// The conditions under which the order is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Condition {
    Healthy,
    TenthFails,
    HeldBack,
    Killed,
}

impl Condition {
    const ALL: [Self; 4] = [
        Self::Healthy,
        Self::TenthFails,
        Self::HeldBack,
        Self::Killed,
    ];

    fn target(self) -> Behaviour {
        match self {
            Self::Healthy | Self::HeldBack => Behaviour::Fine,
            Self::TenthFails => Behaviour::Fail(10),
            // Long enough for a kill.
            Self::Killed => Behaviour::Slow(Duration::from_millis(600)),
        }
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(match self {
            Self::Healthy => "healthy",
            Self::TenthFails => "a tenth of attempts fails",
            Self::HeldBack => "held back and released",
            Self::Killed => "the processor is killed",
        })
    }
}

async fn start(order: &str, parameters: &[(&str, &str)]) -> Result<Relay> {
    let parameters = [&[("Order", order)], parameters].concat();
    Relay::start(Behaviour::Fine, &parameters).await
}

/// Overrides the breaker, as an operator does.
async fn override_breaker(relay: &Relay, action: &str) -> Result<()> {
    let request = json!({ "action": action });
    let run = relay.until_free(Function::Breaker, &request);
    run.await.map(drop)
}

/// Kills the processor every few seconds, each time with an event at the target.
async fn kill_processors(relay: &Relay) -> Result<Infallible> {
    for _ in 0..KILLS {
        let seen = relay.target.requests().len();
        let is_new = |requests: &[_]| requests.len() > seen;
        relay
            .target
            .until("an event is at the target", is_new)
            .await?;
        relay.kill(Function::Processor).await?;
        sleep(BETWEEN_KILLS).await;
    }
    pending().await
}

/// Sends the conversations and waits until all of them have arrived.
async fn measure_under(relay: &Relay, condition: Condition) -> Result<Tally> {
    relay.target.behave(condition.target());
    if condition == Condition::HeldBack {
        override_breaker(relay, "open").await?;
        relay.until_not_delivering().await?;
    }
    let name = format!("{condition:?}").to_lowercase();
    let sent = Conversations::send(relay, &name, CONVERSATIONS, 0..MESSAGES).await?;
    if condition == Condition::HeldBack {
        override_breaker(relay, "close").await?;
    }
    ledger::until(relay, "all are delivered", async || {
        Ok(relay.held().await? == (0, 0))
    })
    .await?;
    sent.tally(relay)
}

/// Measures the order under each condition, and prints it.
async fn measure(order: &str) -> Result<Vec<(Condition, Tally)>> {
    let relay = start(order, &[&QUICK[..], &NEVER_LATE].concat()).await?;
    relay.set_visibility(VISIBILITY_SECONDS).await?;
    let mut tallies = Vec::new();
    for condition in Condition::ALL {
        let tally = match condition {
            Condition::Killed => tokio::select! {
                tally = measure_under(&relay, condition) => tally?,
                killed = kill_processors(&relay) => match killed? {},
            },
            _ => measure_under(&relay, condition).await?,
        };
        eprintln!("Order={order}, {condition}: {tally}");
        tallies.push((condition, tally));
    }
    let records = ledger::records(&relay).await?;
    let mut attempts = records.values().flat_map(|record| &record.attempts);
    ensure!(
        attempts.any(|attempt| attempt.error.as_deref() == Some(CRASHED)),
        "no kill has ended an attempt"
    );
    Ok(tallies)
}

#[tokio::test]
async fn each_conversation_keeps_its_order_whatever_fails() -> Result<()> {
    for (condition, tally) in Box::pin(measure("conversation")).await? {
        let expected = Tally {
            conversations: CONVERSATIONS,
            ..Tally::default()
        };
        ensure!(tally == expected, "{condition}: {tally}");
    }
    Ok(())
}

/// `cargo test --workspace --test end_to_end order::figures -- --ignored --nocapture`
#[tokio::test]
#[ignore = "prints the figures of the documentation, which differ from run to run"]
async fn figures_without_order_and_with_it() -> Result<()> {
    for order in ["none", "conversation"] {
        Box::pin(measure(order)).await?;
    }
    Ok(())
}
