//! Metrics: one table of all, and the log lines that CloudWatch makes them of.
//!
//! Every metric is declared here, and no other module spells a metric's name. `cargo xtask docs
//! --write` makes `docs/reference/metrics.md` of the table; `tests/metrics` compares the table with
//! what is written.

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
pub struct CountBy<V: 'static> {
    name: &'static str,
    dimension: &'static str,
    values: &'static [V],
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

    /// Records a number.
    pub fn count(self, number: u64) {
        self.record(f64::from(u32::try_from(number).unwrap_or(u32::MAX)));
    }

    /// Records 1 for true and 0 for false.
    pub fn is(self, so: bool) {
        self.record(if so { 1.0 } else { 0.0 });
    }
}

/// One metric, for tests and for the reference page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Metric {
    /// Its name in CloudWatch.
    pub name: &'static str,
    /// Its unit, as CloudWatch spells it.
    pub unit: &'static str,
    /// The dimension that it always has, with every value.
    pub dimension: Option<(&'static str, Vec<&'static str>)>,
    /// The functions that write it.
    pub written_by: &'static str,
    /// Its meaning, as one line of Markdown.
    pub meaning: String,
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
    const ALL: [Self; 6] = [
        Self::Empty,
        Self::NotJson,
        Self::Unauthorized,
        Self::TooLarge,
        Self::Unavailable,
        Self::NotConfigured,
    ];

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
    const ALL: [Self; 5] = [
        Self::Success,
        Self::Redirection,
        Self::ClientError,
        Self::ServerError,
        Self::None,
    ];

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

/// Declares the metrics, their list, and [`describe`], which registers the unit of each.
macro_rules! table {
    ($($(#[doc = $doc:literal])* $name:ident: $kind:ty = $metric:expr, by $written_by:literal;)*) => {
        $($(#[doc = $doc])* pub const $name: $kind = $metric;)*

        fn describe() {
            $($name.describe();)*
        }

        /// Every metric, in the order of the table.
        pub fn all() -> Vec<Metric> {
            vec![$($name.metric($written_by, concat!($($doc),*).trim().to_owned())),*]
        }
    };
}

impl Count {
    fn describe(self) {
        describe_counter!(self.0, Unit::Count, "");
    }

    fn metric(self, written_by: &'static str, meaning: String) -> Metric {
        Metric {
            name: self.0,
            unit: "Count",
            dimension: None,
            written_by,
            meaning,
        }
    }
}

impl<V: Copy> CountBy<V> {
    fn describe(self) {
        describe_counter!(self.name, Unit::Count, "");
    }

    fn metric(self, written_by: &'static str, meaning: String) -> Metric {
        let values = self.values.iter().map(|value| (self.text)(*value));
        Metric {
            dimension: Some((self.dimension, values.collect())),
            ..Count(self.name).metric(written_by, meaning)
        }
    }
}

impl Measure {
    fn describe(self) {
        describe_histogram!(self.name, self.unit, "");
    }

    fn metric(self, written_by: &'static str, meaning: String) -> Metric {
        Metric {
            unit: match self.unit {
                Unit::Milliseconds => "Milliseconds",
                Unit::Seconds => "Seconds",
                _ => "Count",
            },
            ..Count(self.name).metric(written_by, meaning)
        }
    }
}

table! {
    /// Webhooks answered with 200, whose events are durable.
    ACCEPTED: Count = Count("Accepted"), by "ingest";
    /// Webhooks answered with another status. `unavailable` is a 503: the queue or the secret could
    /// not be reached or read, and Genesys Cloud tries again for a short time only.
    /// `not-configured` is a 503 as well: no secret of the kind is set that would check the
    /// request. The log names its field. Either an integration was set up before its secret, and
    /// its events are lost; or the signatures are made up.
    REJECTED: CountBy<Rejection> = CountBy { name: "Rejected", dimension: "Reason", values: &Rejection::ALL, text: Rejection::as_str }, by "ingest";
    /// Time that SQS took to accept an event.
    ENQUEUE_TIME: Measure = Measure { name: "EnqueueTime", unit: Unit::Milliseconds }, by "ingest";
    /// Events that the target accepted.
    DELIVERED: Count = Count("Delivered"), by "processor";
    /// Attempts that failed and will be repeated. One event can have several.
    RETRIED: Count = Count("Retried"), by "processor";
    /// Events that went back to the queue without an attempt, because `TargetRatePerSecond` left no
    /// room for them in an invocation. One event can be postponed several times.
    POSTPONED: Count = Count("Postponed"), by "processor";
    /// Time since the relay received an event that goes back to its queue as a new message: the rate
    /// left no room for it, or the relay's credentials failed. SQS counts the age of such a message
    /// from 0.
    WAITING_AGE: Measure = Measure { name: "WaitingAge", unit: Unit::Seconds }, by "processor";
    /// Events that left the line of their conversation, most because `OrderPatienceSeconds` was
    /// over. The target gets them with `X-Relay-Order: late`. Not written with `Order=none`.
    REORDERED: Count = Count("Reordered"), by "processor";
    /// At each failed attempt of an event in the line of its conversation, the time since its first
    /// failed attempt there. Its maximum is the wait of the conversation that has waited longest.
    /// Not written with `Order=none`.
    CONVERSATION_WAIT: Measure = Measure { name: "ConversationWait", unit: Unit::Seconds }, by "processor";
    /// Events that became dead letters. Each is counted once, when it is known to be dead. If the
    /// table could not be written at that moment, it is `unknown` or `crashed` when a
    /// reconciliation finds its message. Events that EventBridge could not put into the queue are
    /// counted then too.
    DEAD: CountBy<ReasonKind> = CountBy { name: "Dead", dimension: "Reason", values: &ReasonKind::ALL, text: ReasonKind::as_str }, by "ingest, processor, replay, recovery";
    /// Delivered events sent to the queue of the journal. An event that comes again after a crash is
    /// counted again. Written with `JournalDays` only.
    JOURNALLED: Count = Count("Journalled"), by "processor";
    /// Delivered events that are missing in the journal, because its queue did not accept them, and
    /// runs that could not write the journal's objects. Written with `JournalDays` only.
    JOURNAL_FAILED: Count = Count("JournalFailed"), by "processor, replay";
    /// Messages whose event had been delivered, discarded or erased before. Of `generic`, a sender's key
    /// may be the same on every event: one that comes more than an hour after the first is a line
    /// of level WARN.
    DUPLICATES: CountBy<Source> = CountBy { name: "Duplicates", dimension: "Source", values: &Source::COUNTED, text: Source::as_str }, by "processor";
    /// Events of Open Messaging delivered, found dead or recovered under an id of their own,
    /// because another body had their id and time first. Each is a line of level WARN.
    REUSED_IDS: Count = Count("ReusedIds"), by "processor, replay, recovery";
    /// Time until the target answered, or until the time-out. Leaves out what was never sent,
    /// because there were no usable credentials or no room in the rate.
    TARGET_TIME: Measure = Measure { name: "TargetTime", unit: Unit::Milliseconds }, by "processor";
    /// Answers of the target by class. `none` is a time-out, a broken connection, or a status
    /// outside HTTP's. Leaves out what was never sent.
    TARGET_ANSWERS: CountBy<Class> = CountBy { name: "TargetAnswers", dimension: "Class", values: &Class::ALL, text: Class::as_str }, by "processor";
    /// Attempts that failed for the relay's credentials: the secret cannot be used, there is no
    /// token, or the target answered 401 or 403 although credentials are configured. They do not
    /// count towards the dead letters.
    CREDENTIALS_FAILED: Count = Count("CredentialsFailed"), by "processor";
    /// Days until the target's client certificate ends, negative after that. Of a chain, the
    /// certificate that ends first counts. Written with `targetClientCertificate` only, at most
    /// once an hour by a process.
    CERTIFICATE_DAYS_LEFT: Measure = Measure { name: "CertificateDaysLeft", unit: Unit::Count }, by "processor";
    /// From the webhook's arrival to its delivery.
    AGE_AT_DELIVERY: Measure = Measure { name: "AgeAtDelivery", unit: Unit::Seconds }, by "processor";
    /// Calls of SQS that failed after their retries. A batch in which single messages failed counts
    /// as one. Lambda's own calls (to receive, delete and move) are not counted.
    QUEUE_ERRORS: Count = Count("QueueErrors"), by "all";
    /// Calls of DynamoDB that failed after their retries.
    TABLE_ERRORS: Count = Count("TableErrors"), by "processor, replay, recovery, breaker";
    /// Dead letters sent back to the events queue. For a replay of everything, the queue's depth
    /// when SQS's move task began.
    REPLAYED: Count = Count("Replayed"), by "replay";
    /// Delivered events that an operator sent once more.
    RESENT: Count = Count("Resent"), by "replay";
    /// Events that an operator erased. Those that were still in a queue are counted when the
    /// processor drops them.
    ERASED: Count = Count("Erased"), by "replay, processor";
    /// Dead letters that an operator discarded.
    DISCARDED: Count = Count("Discarded"), by "replay";
    /// Dead letters moved to the archive.
    ARCHIVED: Count = Count("Archived"), by "replay";
    /// 1 for a run of the archive that failed or left a dead letter behind, else 0. Also 1 for a
    /// run that could not look at everything, because another receiver held messages or its time
    /// was over, and for a scheduled run that found another run or a move task. A killed run writes
    /// nothing.
    ARCHIVE_FAILED: Measure = Measure { name: "ArchiveFailed", unit: Unit::Count }, by "replay";
    /// Dead letters brought back from the archive.
    RESTORED: Count = Count("Restored"), by "replay";
    /// Age of the oldest dead letter since the relay first received its event; 0 without one. A
    /// replay or a restore makes a new message, for which SQS's own metric counts from 0. After a
    /// restore it can be longer than any retention.
    OLDEST_DEAD_LETTER_AGE: Measure = Measure { name: "OldestDeadLetterAge", unit: Unit::Seconds }, by "replay, at each reconciliation";
    /// Items that Genesys Cloud failed to deliver.
    RECOVERY_FETCHED: Count = Count("RecoveryFetched"), by "recovery";
    /// Fetched items that the relay did not have.
    RECOVERY_NEW: Count = Count("RecoveryNew"), by "recovery";
    /// Fetched items that the relay had.
    RECOVERY_KNOWN: Count = Count("RecoveryKnown"), by "recovery";
    /// Fetched items that could not be read and are dead letters.
    RECOVERY_UNREADABLE: Count = Count("RecoveryUnreadable"), by "recovery";
    /// 1 for a run that failed, else 0.
    RECOVERY_FAILED: Measure = Measure { name: "RecoveryFailed", unit: Unit::Count }, by "recovery";
    /// Time between the checkpoint and the present.
    RECOVERY_BEHIND_TIME: Measure = Measure { name: "RecoveryBehindTime", unit: Unit::Seconds }, by "recovery";
    /// Messages of Genesys Cloud without a record, and what could not be read, by the newest statement;
    /// at least 1 where its books do not balance. Written at each run of the
    /// schedule with `Statement=on`, and left out while a statement is overdue.
    UNACCOUNTED: Measure = Measure { name: "Unaccounted", unit: Unit::Count }, by "recovery, at each run of the schedule of statements";
    /// 1 for a run of the canary that failed, else 0. Written with `CanaryMinutes` only, as the next.
    CANARY_FAILED: Measure = Measure { name: "CanaryFailed", unit: Unit::Count }, by "canary";
    /// Time since the last good run of the canary, at the end of each run: 0 if that was good.
    CANARY_AGE: Measure = Measure { name: "CanaryAge", unit: Unit::Seconds }, by "canary";
    /// 1 while events are held back, or go to the dead letters after three days of that; else 0.
    BREAKER_OPEN: Measure = Measure { name: "BreakerOpen", unit: Unit::Count }, by "breaker, at each run";
    /// Events that were let through to test the target.
    BREAKER_PROBES: Count = Count("BreakerProbes"), by "breaker";
    /// Time since the breaker could last send a probe, or find that none is due, while it is open;
    /// else 0. Grows where the processor cannot be invoked, or cannot receive. 0 for a breaker that
    /// is held open by hand, which does not probe.
    BREAKER_UNPROBED_TIME: Measure = Measure { name: "BreakerUnprobedTime", unit: Unit::Seconds }, by "breaker, at each run; replay, at each reconciliation of the schedule";
    /// 1 while events wait, the event source mapping is enabled, and the processor has attempted
    /// none for three minutes (20 where all that wait have been received); else 0. Detects a
    /// processor that cannot start or is not invoked. It is 1 as well where all waiting events have
    /// a delay of more than 20 minutes (`Retry-After`, `BackoffCapSeconds`). Not written with
    /// `Breaker=off`.
    PROCESSOR_SILENT: Measure = Measure { name: "ProcessorSilent", unit: Unit::Count }, by "breaker, at each run of the schedule";
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
