//! The processor under load: batches of one and of ten, and everything that a delivery can come to.

use std::collections::BTreeSet;

use anyhow::Result;
use jiff::Timestamp;
use local::stack::secret;
use local::stand_in::StandIn;
use serde_json::{Value, json};

use crate::footprint::Footprint;
use crate::target::{ASKS, HANGS_UP, Target};
use crate::{PROCESSOR_TIME, invocations, returned, start};

/// `MAX_RECEIVE_COUNT`.
const LAST: u32 = 10;

/// From which number on there is an event far enough back to be sent again.
const FIRST: usize = 19;

/// Outcome of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Delivered,
    Large,
    /// The same event as one before.
    Again,
    /// Tried again later, since the target answers so, or hangs up.
    Retried(u16),
    Exhausted,
    Refused,
    Malformed,
}

impl Kind {
    fn of(number: usize) -> Self {
        match number % 20 {
            11 | 12 => Self::Retried(503),
            13 => Self::Retried(HANGS_UP),
            14 => Self::Refused,
            15 => Self::Exhausted,
            16 => Self::Malformed,
            17 if number % 200 == 17 => Self::Large,
            19 => Self::Again,
            _ => Self::Delivered,
        }
    }

    /// True where SQS must keep the message.
    fn stays(self) -> bool {
        matches!(self, Self::Retried(_) | Self::Exhausted)
    }

    /// The message, as the event source mapping hands it over.
    fn record(self, number: usize) -> Value {
        let asked = match self {
            Self::Delivered | Self::Large | Self::Again | Self::Malformed => 200,
            Self::Retried(status) => status,
            Self::Exhausted => 500,
            Self::Refused => 404,
        };
        let text = if self == Self::Large {
            "x".repeat(300_000)
        } else {
            "Hi, how can I help you?".to_owned()
        };
        // Far enough back to be in an earlier batch: an event that is delivered.
        let event = if self == Self::Again {
            number - FIRST
        } else {
            number
        };
        let receives = if self == Self::Exhausted { LAST } else { 1 };
        let mut record = record(
            &format!("load-{event}"),
            &format!("{ASKS}{asked},\"text\":\"{text}\"}}"),
            receives,
        );
        record["messageId"] = json!(format!("message-{number}"));
        if self == Self::Malformed {
            record["body"] = json!("no json");
            record["messageAttributes"] = json!({});
        }
        record
    }
}

/// A message of this event that has been received so often.
pub(crate) fn record(event_id: &str, body: &str, receives: u32) -> Value {
    let now = Timestamp::now();
    let text = |value: &str| json!({ "stringValue": value, "dataType": "String" });
    json!({
        "messageId": event_id,
        "receiptHandle": "receipt",
        "body": body,
        "attributes": {
            "ApproximateReceiveCount": receives.to_string(),
            "SentTimestamp": now.as_millisecond().to_string(),
        },
        "messageAttributes": {
            "event_id": text(event_id),
            "source": text("generic"),
            "received_at": text(&now.to_string()),
            "content_type": text("application/json"),
        },
        "eventSource": "aws:sqs",
    })
}

fn message_id(record: &Value) -> String {
    record["messageId"].as_str().unwrap_or_default().to_owned()
}

/// The messages that SQS has to keep, by the answer to a batch.
pub(crate) fn kept(answer: &Value) -> BTreeSet<String> {
    let failures = answer["batchItemFailures"].as_array().into_iter().flatten();
    failures
        .filter_map(|failure| failure["itemIdentifier"].as_str())
        .map(str::to_owned)
        .collect()
}

#[tokio::test]
async fn the_processor_holds_no_more_after_thousands_of_batches_and_has_recorded_what_it_took()
-> Result<()> {
    let invocations = invocations(2000)?;
    let (stand_in, target) = (StandIn::start(&secret()).await?, Target::start().await?);
    let mut processor = start("processor", &stand_in, &target.url(), PROCESSOR_TIME).await?;
    let mut footprint = Footprint::of(processor.pid(), invocations);
    let (mut number, mut later) = (FIRST, Vec::<Value>::new());
    let mut expected = Expected::default();
    for invocation in 1..=invocations {
        let size = if invocation.is_multiple_of(10) { 10 } else { 1 };
        // What failed before comes again at once, before its time.
        let mut records: Vec<_> = later.drain(..later.len().min(size / 2)).collect();
        let mut stay: BTreeSet<_> = records.iter().map(message_id).collect();
        while records.len() < size {
            number += 1;
            let kind = Kind::of(number);
            let record = kind.record(number);
            expected.count(kind);
            if kind.stays() {
                stay.insert(message_id(&record));
            }
            if matches!(kind, Kind::Retried(_)) {
                let mut again = record.clone();
                again["attributes"]["ApproximateReceiveCount"] = json!("2");
                later.push(again);
            }
            records.push(record);
        }
        let answer = returned(
            processor
                .invoke(json!({ "Records": records }).to_string())
                .await?,
        )?;
        assert_eq!(kept(&answer), stay, "{invocation}");
        footprint.after(invocation)?;
    }
    eprintln!("processor: {expected:?}");
    assert_eq!(
        (target.answered(200), stand_in.written("DELIVERED")),
        (expected.delivered, expected.delivered)
    );
    assert_eq!(
        stand_in.written("DEAD"),
        expected.refused + expected.exhausted
    );
    assert_eq!(
        stand_in.messages("dead-letters").len(),
        expected.refused + expected.malformed
    );
    footprint.is_steady("processor")
}

/// Expected totals of all batches.
#[derive(Debug, Default)]
struct Expected {
    delivered: usize,
    duplicates: usize,
    retried: usize,
    exhausted: usize,
    refused: usize,
    malformed: usize,
}

impl Expected {
    fn count(&mut self, kind: Kind) {
        *match kind {
            Kind::Delivered | Kind::Large => &mut self.delivered,
            Kind::Again => &mut self.duplicates,
            Kind::Retried(_) => &mut self.retried,
            Kind::Exhausted => &mut self.exhausted,
            Kind::Refused => &mut self.refused,
            Kind::Malformed => &mut self.malformed,
        } += 1;
    }
}
