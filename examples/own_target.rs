//! Delivers events to something of your own instead of an HTTP endpoint: here, lines on standard
//! output.
//!
//! Run it with `cargo run --example own_target --features testing`. To deploy such a target, put it
//! in place of `HttpTarget` in `functions/processor/src/main.rs`; retries, backoff and dead letters
//! stay as they are.

use std::io::Write as _;
use std::sync::Arc;
use std::time::Duration;

use genesys_relay::deliver::{Ports, Processor};
use genesys_relay::domain::message::Message;
use genesys_relay::domain::retry::Schedule;
use genesys_relay::ports::clock::SystemClock;
use genesys_relay::ports::queue::{ReceiptHandle, ReceivedMessage};
use genesys_relay::ports::target::{Delivery, DeliveryFailure, FailureCause, Outcome, Target};
use genesys_relay::testing::{FakePorts, FakeQueue, FakeTable};
use tokio::time::Instant;

/// Writes each event as one line.
struct Lines;

impl Target for Lines {
    async fn deliver(&self, delivery: Delivery<'_>) -> Outcome {
        // Waits for the bound on the rate (`TargetRatePerSecond`).
        if let Err(postponed) = delivery.turn().await {
            return Outcome::Failed(postponed);
        }
        let event = delivery.event;
        // `Refused` means that no retry can help: the event goes to the dead letters at once.
        let Ok(text) = std::str::from_utf8(&event.body) else {
            return Outcome::Failed(DeliveryFailure::new(
                FailureCause::Refused,
                "the event is not text",
            ));
        };
        // The same event can come twice, with the same `event.id`.
        match writeln!(std::io::stdout(), "{} {} {text}", event.id, event.source) {
            Ok(()) => Outcome::Delivered { status: None },
            Err(error) => Outcome::Failed(DeliveryFailure::new(
                FailureCause::Connection,
                error.to_string(),
            )),
        }
    }

    fn address(&self) -> String {
        "standard output".to_owned()
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let ports = Ports {
        // The function has two `SqsQueue`s and a `DynamoDb` here.
        events: FakeQueue::default(),
        ordered: None,
        dead_letters: FakeQueue::default(),
        journal: None,
        table: FakeTable::default(),
        target: Lines,
        clock: SystemClock,
    };
    let schedule = Schedule::new(Duration::from_secs(2), Duration::from_mins(15), 10)?;
    let processor = Arc::new(Processor::<FakePorts<Lines, SystemClock>>::new(
        ports, schedule,
    ));
    let received = ReceivedMessage {
        message_id: "a-message".to_owned(),
        receipt: ReceiptHandle("a-receipt".to_owned()),
        receive_count: 1,
        is_ordered: false,
        sent_at: jiff::Timestamp::now(),
        message: Message {
            body: r#"{"hello":"world"}"#.to_owned(),
            attributes: [].into(),
            group: None,
            trace: None,
        },
    };
    let kept = processor
        .process(vec![received], Instant::now() + Duration::from_mins(1))
        .await;
    anyhow::ensure!(kept.is_empty(), "not delivered: {kept:?}");
    Ok(())
}
