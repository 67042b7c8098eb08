//! What the relay measures: one table of all metrics, and the lines that CloudWatch makes them of.
//!
//! Whoever counts or times something says so here, and nothing else spells a metric's name. `docs/reference/metrics.md` is the same
//! table for people; `tests/metrics.rs` holds it to what is written.

use std::error::Error as StdError;
use std::io::{self, Write as _};
use std::time::{Duration, Instant};

use ::metrics::{Unit, counter, describe_counter, describe_histogram, histogram};
use jiff::Timestamp;
use metrics_cloudwatch_embedded::{Builder, Collector};

use crate::domain::circuit::{Circuit, State};
use crate::domain::event::Source;
use crate::domain::failure::ReasonKind;
use crate::runtime::logging::display_chain;

/// What was recorded waits for as long as this at the most, while invocations come.
const PAUSE: Duration = Duration::from_secs(1);

/// What so many invocations recorded is written in any case: a line holds up to 100 values of a metric ("Specification: Embedded
/// metric format").
const MOST_INVOCATIONS: u32 = 50;

/// Something that happens, and is counted.
#[derive(Debug, Clone, Copy)]
pub struct Count(&'static str);

impl Count {
    /// It happened so often.
    pub fn add(self, times: u64) {
        counter!(self.0).increment(times);
    }
}

/// Something that happens, counted for each value of a dimension.
///
/// The values are those of an enum: nothing that somebody has sent becomes a metric, or the price of one.
#[derive(Debug, Clone, Copy)]
pub struct CountBy<V> {
    name: &'static str,
    dimension: &'static str,
    text: fn(V) -> &'static str,
}

impl<V> CountBy<V> {
    /// It happened so often.
    pub fn add(self, value: V, times: u64) {
        counter!(self.name, self.dimension => (self.text)(value)).increment(times);
    }
}

/// Something that is measured: every value is kept, also a 0.
#[derive(Debug, Clone, Copy)]
pub struct Measure {
    name: &'static str,
    unit: Unit,
}

impl Measure {
    /// It is this.
    pub fn record(self, value: f64) {
        histogram!(self.name).record(value);
    }

    /// It took so long, to the millisecond.
    pub fn time(self, duration: Duration) {
        let millis = f64::from(u32::try_from(duration.as_millis()).unwrap_or(u32::MAX));
        self.record(if self.unit == Unit::Seconds { millis / 1e3 } else { millis });
    }

    /// It is so: 1, or it is not: 0.
    pub fn is(self, so: bool) {
        self.record(if so { 1.0 } else { 0.0 });
    }
}

/// Why a webhook was not taken in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rejection {
    /// It has no body.
    Empty,
    /// Its body is not a JSON object or array.
    NotJson,
    /// It has no proof that holds.
    Unauthorized,
    /// It does not fit into a message.
    TooLarge,
    /// The relay could not check or store it.
    Unavailable,
    /// No secret of its kind is set, so that nothing can prove it.
    NotConfigured,
}

impl Rejection {
    fn as_str(self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::NotJson => "not-json",
            Self::Unauthorized => "unauthorized",
            Self::TooLarge => "too-large",
            Self::Unavailable => "unavailable",
            Self::NotConfigured => "not-configured",
        }
    }
}

/// How the target answered, by the first digit of its status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// It took the event.
    Success,
    /// It named another place.
    Redirection,
    /// It blamed the event.
    ClientError,
    /// It blamed itself.
    ServerError,
    /// It gave no final answer of HTTP, or none in time.
    None,
}

impl Class {
    /// Of a status, if there is one.
    pub fn of(status: Option<u16>) -> Self {
        match status {
            Some(200..=299) => Self::Success,
            Some(300..=399) => Self::Redirection,
            Some(400..=499) => Self::ClientError,
            Some(500..=599) => Self::ServerError,
            Some(_) | None => Self::None,
        }
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::Success => "2xx",
            Self::Redirection => "3xx",
            Self::ClientError => "4xx",
            Self::ServerError => "5xx",
            Self::None => "none",
        }
    }
}

/// Declares the metrics, and [`describe`], which tells the unit of each.
macro_rules! table {
    ($($(#[$doc:meta])* $name:ident: $kind:ty = $metric:expr;)*) => {
        $($(#[$doc])* pub const $name: $kind = $metric;)*

        fn describe() {
            $($name.describe();)*
        }
    };
}

impl Count {
    fn describe(self) {
        describe_counter!(self.0, Unit::Count, "");
    }
}

impl<V> CountBy<V> {
    fn describe(self) {
        describe_counter!(self.name, Unit::Count, "");
    }
}

impl Measure {
    fn describe(self) {
        describe_histogram!(self.name, self.unit, "");
    }
}

table! {
    /// Webhooks that are durable.
    ACCEPTED: Count = Count("Accepted");
    /// Webhooks that were refused.
    REJECTED: CountBy<Rejection> = CountBy { name: "Rejected", dimension: "Reason", text: Rejection::as_str };
    /// How long the queue took to take an event in.
    ENQUEUE_TIME: Measure = Measure { name: "EnqueueTime", unit: Unit::Milliseconds };
    /// Events that the target took.
    DELIVERED: Count = Count("Delivered");
    /// Attempts that failed and will be repeated.
    RETRIED: Count = Count("Retried");
    /// Events that became dead letters.
    DEAD: CountBy<ReasonKind> = CountBy { name: "Dead", dimension: "Reason", text: ReasonKind::as_str };
    /// Messages of events that were delivered or discarded before.
    DUPLICATES: CountBy<Source> = CountBy { name: "Duplicates", dimension: "Source", text: Source::as_str };
    /// Events that came under the id of another one.
    REUSED_IDS: Count = Count("ReusedIds");
    /// How long the target took to answer, or until there was no answer.
    TARGET_TIME: Measure = Measure { name: "TargetTime", unit: Unit::Milliseconds };
    /// Answers of the target.
    TARGET_ANSWERS: CountBy<Class> = CountBy { name: "TargetAnswers", dimension: "Class", text: Class::as_str };
    /// From the arrival of an event to its delivery.
    AGE_AT_DELIVERY: Measure = Measure { name: "AgeAtDelivery", unit: Unit::Seconds };
    /// Calls of SQS that failed.
    QUEUE_ERRORS: Count = Count("QueueErrors");
    /// Calls of DynamoDB that failed.
    TABLE_ERRORS: Count = Count("TableErrors");
    /// Dead letters that were sent back.
    REPLAYED: Count = Count("Replayed");
    /// Dead letters that an operator threw away.
    DISCARDED: Count = Count("Discarded");
    /// Dead letters that were moved to the archive.
    ARCHIVED: Count = Count("Archived");
    /// Runs of the archive that failed or left a dead letter behind.
    ARCHIVE_FAILED: Count = Count("ArchiveFailed");
    /// Dead letters that were brought back from the archive.
    RESTORED: Count = Count("Restored");
    /// Since when the relay has had the oldest dead letter.
    OLDEST_DEAD_LETTER_AGE: Measure = Measure { name: "OldestDeadLetterAge", unit: Unit::Seconds };
    /// What Genesys Cloud said it failed to deliver.
    RECOVERY_FETCHED: Count = Count("RecoveryFetched");
    /// Of these, what was not known.
    RECOVERY_NEW: Count = Count("RecoveryNew");
    /// Of these, what was known.
    RECOVERY_KNOWN: Count = Count("RecoveryKnown");
    /// Of these, what is no event.
    RECOVERY_UNREADABLE: Count = Count("RecoveryUnreadable");
    /// Whether a run of the recovery failed.
    RECOVERY_FAILED: Measure = Measure { name: "RecoveryFailed", unit: Unit::Count };
    /// How far the recovery is behind.
    RECOVERY_BEHIND_TIME: Measure = Measure { name: "RecoveryBehindTime", unit: Unit::Seconds };
    /// Whether events are held back, or go to the dead letters since they have been for too long.
    BREAKER_OPEN: Measure = Measure { name: "BreakerOpen", unit: Unit::Count };
    /// Attempts to see whether the target is back.
    BREAKER_PROBES: Count = Count("BreakerProbes");
    /// How long the breaker has not looked whether the target is back.
    BREAKER_UNPROBED_TIME: Measure = Measure { name: "BreakerUnprobedTime", unit: Unit::Seconds };
    /// Whether events wait for a processor that attempts none.
    PROCESSOR_SILENT: Measure = Measure { name: "ProcessorSilent", unit: Unit::Count };
}

/// What a run of the breaker came to.
pub fn breaker(circuit: &Circuit, now: Timestamp) {
    BREAKER_OPEN.is(matches!(circuit.state, State::Open | State::Exhausting));
    breaker_unprobed(circuit, now);
}

/// How long nobody has looked whether the target is back, where somebody should.
pub fn breaker_unprobed(circuit: &Circuit, now: Timestamp) {
    let looked_at = circuit.looked_at.map_or(circuit.since, |at| at.max(circuit.since));
    let unprobed = now.duration_since(looked_at).try_into().unwrap_or_default();
    BREAKER_UNPROBED_TIME.time(if circuit.is_to_probe() { unprobed } else { Duration::ZERO });
}

/// Why there can be no metrics.
#[derive(Debug, thiserror::Error)]
#[error("metrics cannot be recorded")]
pub struct NotRecording(#[source] Box<dyn StdError + Send + Sync>);

/// What was recorded and is not written yet.
///
/// A process has one. What it holds when the process ends is lost.
pub struct Pending {
    collector: &'static Collector,
    written_at: Option<Instant>,
    invocations: u32,
}

impl Pending {
    /// Records from now on, in a namespace of CloudWatch.
    pub fn start(namespace: String) -> Result<Self, NotRecording> {
        let collector = Builder::new().cloudwatch_namespace(namespace).init().map_err(NotRecording)?;
        describe();
        Ok(Self { collector, written_at: None, invocations: 0 })
    }

    /// Writes it to standard output, where Lambda collects it.
    pub fn write(&mut self) {
        // In one go, so that no other line gets in between.
        let written = self.take().and_then(|lines| io::stdout().write_all(&lines));
        if let Err(error) = written {
            tracing::error!(error = display_chain(&error), "metrics are lost");
        }
    }

    /// Writes it after an invocation if that was not done a moment ago: lines cost more than what they say.
    pub fn flush_throttled(&mut self) {
        self.invocations += 1;
        let is_recent = self.written_at.is_some_and(|at| at.elapsed() < PAUSE);
        if !is_recent || self.invocations >= MOST_INVOCATIONS {
            self.write();
        }
    }

    /// The lines of all that was recorded since the last time.
    pub fn take(&mut self) -> io::Result<Vec<u8>> {
        (self.written_at, self.invocations) = (Some(Instant::now()), 0);
        let mut lines = Vec::new();
        self.collector.flush(&mut lines)?;
        Ok(lines)
    }
}
