//! How much lies where, who is at work, and how it goes: what people and alarms look at.

use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;
use tokio::time::Instant;

use super::run::ShownRun;
use super::{Listing, Ports, Replay, ReplayError};
use crate::breaker;
use crate::domain::attempts::{Attempts, minutes_before};
use crate::domain::event_record::BulkReplay;
use crate::domain::queue_depth::QueueDepth;
use crate::ports::clock::Clock;
use crate::ports::events_table::{EventsTable, LeaseName, TableError};
use crate::ports::queue::{Countable, MoveTask, Redrive};
use crate::runtime::logging::display_chain;
use crate::runtime::metrics;

/// The attempts of so many minutes are shown, the one that is included.
const SHOWN_MINUTES: u8 = 15;

/// How many messages lie where, and who is at work.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// The events queue.
    queue: QueueDepth,
    /// The dead-letter queue.
    dead_letters: QueueDepth,
    /// How many seconds ago SQS took the oldest message of the events queue, by CloudWatch; nothing when that is not
    /// known.
    queue_age_seconds: Option<u64>,
    /// How many seconds ago the relay received the oldest event of the dead letters.
    dead_letters_age_seconds: Option<u64>,
    /// The newest move task.
    move_task: Option<MoveTask>,
    /// Who asked for it, where the relay has started it.
    bulk_replay: Option<ShownBulkReplay>,
    /// The run that takes from the dead-letter queue.
    pub(super) run: Option<ShownRun>,
    /// Whether events are held back; nothing before the breaker has looked for the first time.
    breaker: Option<breaker::BreakerStatus>,
    /// Why that cannot be read: a later version of the relay has written it.
    #[serde(skip_serializing_if = "Option::is_none")]
    breaker_error: Option<String>,
    /// What the attempts of the last minutes came to, the newest first.
    attempts: Vec<AttemptsOfMinute>,
}

/// The newest replay of everything.
#[derive(Debug, Serialize)]
struct ShownBulkReplay {
    at: Timestamp,
    by: String,
    why: Option<String>,
    force: bool,
}

impl From<BulkReplay> for ShownBulkReplay {
    fn from(BulkReplay { act, forced }: BulkReplay) -> Self {
        let force = forced.is_some_and(|forced| forced.at == act.at);
        Self { at: act.at, by: act.by, why: act.why, force }
    }
}

/// What became of the attempts of a minute.
#[derive(Debug, Serialize)]
struct AttemptsOfMinute {
    /// When it began.
    minute: Timestamp,
    delivered: u64,
    failed: u64,
}

impl<P: Ports> Replay<P> {
    /// How old the oldest dead letter is, from when the relay received it.
    async fn oldest_age(&self, now: Timestamp, deadline: Instant) -> Result<Option<Duration>, ReplayError> {
        let oldest = self.list(&Listing::first(), deadline).await?.items.into_iter().next();
        Ok(oldest.map(|letter| now.duration_since(letter.received_at).try_into().unwrap_or_default()))
    }

    /// What an alarm looks at although nobody asks for anything.
    pub(super) async fn measure(&self, deadline: Instant) -> Result<(), ReplayError> {
        let now = self.clock.now();
        metrics::OLDEST_DEAD_LETTER_AGE.time(self.oldest_age(now, deadline).await?.unwrap_or_default());
        Ok(())
    }

    pub(super) async fn status(&self, deadline: Instant) -> Result<Status, ReplayError> {
        let now = self.clock.now();
        let queue_age = self.events.age().await.unwrap_or_else(|error| {
            tracing::warn!(error = display_chain(&error), "the age of the events queue is not known");
            None
        });
        let (breaker, breaker_error) = match self.table.circuit().await {
            Ok(circuit) => (circuit.map(breaker::BreakerStatus::from), None),
            Err(error @ TableError::Unreadable(_)) => (None, Some(display_chain(&error))),
            Err(error) => return Err(error.into()),
        };
        Ok(Status {
            queue_age_seconds: queue_age.map(|age| age.as_secs()),
            dead_letters_age_seconds: self.oldest_age(now, deadline).await?.map(|age| age.as_secs()),
            queue: self.events.depth().await?,
            dead_letters: self.dead_letters.depth().await?,
            move_task: self.redrive.latest_move().await?,
            bulk_replay: self.bulk_replay().await?.map(ShownBulkReplay::from),
            run: self.table.lease(LeaseName::DeadLetters, now).await?.map(ShownRun::from),
            breaker,
            breaker_error,
            attempts: self.attempts(now).await?,
        })
    }

    async fn attempts(&self, now: Timestamp) -> Result<Vec<AttemptsOfMinute>, TableError> {
        let minutes = minutes_before(now, SHOWN_MINUTES);
        let attempts = self.table.attempts(&minutes).await?.into_iter();
        let of_minute = |(minute, Attempts { delivered, failed, .. })| AttemptsOfMinute { minute, delivered, failed };
        Ok(minutes.into_iter().zip(attempts).map(of_minute).collect())
    }
}
