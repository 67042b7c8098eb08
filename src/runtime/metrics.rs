//! Metrics: one table of all, and the log lines that CloudWatch makes them of.
//!
//! Every metric is declared here, and no other module spells a metric's name.
//! `docs/reference/metrics.md` is the same table for people; `tests/metrics.rs` holds it to what is
//! written.

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

/// Upper bound on the time that recorded values wait, while invocations come.
const PAUSE: Duration = Duration::from_secs(1);

/// Upper bound on the invocations whose values wait: a line holds up to 100 values of a metric
/// ("Specification: Embedded metric format").
const MOST_INVOCATIONS: u32 = 50;

/// A counter.
#[derive(Debug, Clone, Copy)]
pub struct Count(&'static str);

impl Count {
    /// Adds to the counter.
    pub fn add(self, times: u64) {
        counter!(self.0).increment(times);
    }
}

/// A counter for each value of a dimension.
///
/// The values are those of an enum: no data of a sender becomes a metric, or the price of one.
#[derive(Debug, Clone, Copy)]
pub struct CountBy<V> {
    name: &'static str,
    dimension: &'static str,
    text: fn(V) -> &'static str,
}

impl<V> CountBy<V> {
    /// Adds to the counter.
    pub fn add(self, value: V, times: u64) {
        counter!(self.name, self.dimension => (self.text)(value)).increment(times);
    }
}

/// A measured value; a 0 is recorded too.
#[derive(Debug, Clone, Copy)]
pub struct Measure {
    name: &'static str,
    unit: Unit,
}

impl Measure {
    /// Records a value.
    pub fn record(self, value: f64) {
        histogram!(self.name).record(value);
    }

    /// Records a duration, to the millisecond.
    pub fn time(self, duration: Duration) {
        let millis = f64::from(u32::try_from(duration.as_millis()).unwrap_or(u32::MAX));
        self.record(if self.unit == Unit::Seconds {
            millis / 1e3
        } else {
            millis
        });
    }

    /// Records 1 for true and 0 for false.
    pub fn is(self, so: bool) {
        self.record(if so { 1.0 } else { 0.0 });
    }
}

/// The reason for which a webhook was rejected.
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

/// The class of the target's answer, by the first digit of its status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// The target accepted the event.
    Success,
    /// A redirection.
    Redirection,
    /// The target rejects the event.
    ClientError,
    /// The target failed.
    ServerError,
    /// No final HTTP answer, or none in time.
    None,
}

impl Class {
    /// The class of a status.
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
    /// Accepted webhooks, which are durable.
    ACCEPTED: Count = Count("Accepted");
    /// Webhooks that were refused.
    REJECTED: CountBy<Rejection> = CountBy { name: "Rejected", dimension: "Reason", text: Rejection::as_str };
    /// The time that SQS took to accept an event.
    ENQUEUE_TIME: Measure = Measure { name: "EnqueueTime", unit: Unit::Milliseconds };
    /// Events that the target accepted.
    DELIVERED: Count = Count("Delivered");
    /// Attempts that failed and will be repeated.
    RETRIED: Count = Count("Retried");
    /// Events that became dead letters.
    DEAD: CountBy<ReasonKind> = CountBy { name: "Dead", dimension: "Reason", text: ReasonKind::as_str };
    /// Messages of events that were delivered or discarded before.
    DUPLICATES: CountBy<Source> = CountBy { name: "Duplicates", dimension: "Source", text: Source::as_str };
    /// Events that came under the id of another one.
    REUSED_IDS: Count = Count("ReusedIds");
    /// The time until the target answered, or until the timeout.
    TARGET_TIME: Measure = Measure { name: "TargetTime", unit: Unit::Milliseconds };
    /// Answers of the target.
    TARGET_ANSWERS: CountBy<Class> = CountBy { name: "TargetAnswers", dimension: "Class", text: Class::as_str };
    /// From the arrival of an event to its delivery.
    AGE_AT_DELIVERY: Measure = Measure { name: "AgeAtDelivery", unit: Unit::Seconds };
    /// Failed calls to SQS.
    QUEUE_ERRORS: Count = Count("QueueErrors");
    /// Failed calls to DynamoDB.
    TABLE_ERRORS: Count = Count("TableErrors");
    /// Dead letters that were sent back.
    REPLAYED: Count = Count("Replayed");
    /// Dead letters that an operator discarded.
    DISCARDED: Count = Count("Discarded");
    /// Dead letters that were moved to the archive.
    ARCHIVED: Count = Count("Archived");
    /// Whether a run of the archive failed or left a dead letter behind.
    ARCHIVE_FAILED: Measure = Measure { name: "ArchiveFailed", unit: Unit::Count };
    /// Dead letters that were brought back from the archive.
    RESTORED: Count = Count("Restored");
    /// The age of the oldest dead letter.
    OLDEST_DEAD_LETTER_AGE: Measure = Measure { name: "OldestDeadLetterAge", unit: Unit::Seconds };
    /// Failed deliveries that Genesys Cloud listed.
    RECOVERY_FETCHED: Count = Count("RecoveryFetched");
    /// Fetched items that were unknown.
    RECOVERY_NEW: Count = Count("RecoveryNew");
    /// Fetched items that were known.
    RECOVERY_KNOWN: Count = Count("RecoveryKnown");
    /// Fetched items that were unreadable.
    RECOVERY_UNREADABLE: Count = Count("RecoveryUnreadable");
    /// 1 for a run of the recovery that failed.
    RECOVERY_FAILED: Measure = Measure { name: "RecoveryFailed", unit: Unit::Count };
    /// The distance of the checkpoint from the present.
    RECOVERY_BEHIND_TIME: Measure = Measure { name: "RecoveryBehindTime", unit: Unit::Seconds };
    /// 1 while the breaker is open or exhausting.
    BREAKER_OPEN: Measure = Measure { name: "BreakerOpen", unit: Unit::Count };
    /// Probes of the target.
    BREAKER_PROBES: Count = Count("BreakerProbes");
    /// The time since the last answered probe, while the breaker should probe.
    BREAKER_UNPROBED_TIME: Measure = Measure { name: "BreakerUnprobedTime", unit: Unit::Seconds };
    /// 1 while events wait for a processor that attempts none.
    PROCESSOR_SILENT: Measure = Measure { name: "ProcessorSilent", unit: Unit::Count };
}

/// Records the metrics of a run of the breaker.
pub fn breaker(circuit: &Circuit, now: Timestamp) {
    BREAKER_OPEN.is(matches!(circuit.state, State::Open | State::Exhausting));
    breaker_unprobed(circuit, now);
}

/// Records the time since the last answered probe, where the breaker should probe.
pub fn breaker_unprobed(circuit: &Circuit, now: Timestamp) {
    let looked_at = circuit
        .looked_at
        .map_or(circuit.since, |at| at.max(circuit.since));
    let unprobed = now.duration_since(looked_at).try_into().unwrap_or_default();
    BREAKER_UNPROBED_TIME.time(if circuit.should_probe() {
        unprobed
    } else {
        Duration::ZERO
    });
}

/// Metrics cannot be recorded.
#[derive(Debug, thiserror::Error)]
#[error("failed to start recording metrics")]
pub struct NotRecording(#[source] Box<dyn StdError + Send + Sync>);

/// Recorded values that are not written yet.
///
/// A process has one. What it holds when the process ends is lost.
pub struct Pending {
    collector: &'static Collector,
    written_at: Option<Instant>,
    invocations: u32,
}

impl Pending {
    /// Starts recording, in a namespace of CloudWatch.
    pub fn start(namespace: String) -> Result<Self, NotRecording> {
        let collector = Builder::new()
            .cloudwatch_namespace(namespace)
            .init()
            .map_err(NotRecording)?;
        describe();
        Ok(Self {
            collector,
            written_at: None,
            invocations: 0,
        })
    }

    /// Writes it to standard output, where Lambda collects it.
    pub fn write(&mut self) {
        // In one go, so that no other line gets in between.
        let written = self.take().and_then(|lines| io::stdout().write_all(&lines));
        if let Err(error) = written {
            tracing::error!(error = display_chain(&error), "failed to write metrics");
        }
    }

    /// Writes it after an invocation if that was not done a moment ago: lines cost more than what
    /// they say.
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
