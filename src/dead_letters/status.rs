//! Status of the relay: queue depths, the current run, the breaker, and the attempts of the last
//! minutes.

use jiff::Timestamp;
use tokio::time::Instant;

use super::Settings;
use super::api::{
    AttemptsOfMinute, BulkReplayStatus, CanaryStatus, OrderStatus, RunInProgress, Status,
    WaitingConversation, WaitingConversations,
};
use super::error::ReplayError;
use super::list::DeadLetterIndex;
use super::ports::{PortTypes, Ports};
use crate::breaker;
use crate::domain::attempts::{Attempts, minutes_before};
use crate::ports::clock::Clock;
use crate::ports::events_table::{EventsTable, LeaseName};
use crate::ports::queue::{Countable, Redrive};
use crate::ports::service::{Fault, ServiceError};
use crate::runtime::logging::display_chain;
use crate::runtime::metrics;

/// Minutes whose attempts are shown, the current one included.
const SHOWN_MINUTES: u8 = 15;

/// Conversations that are shown at most.
const SHOWN_CONVERSATIONS: usize = 20;

/// Status of the queues, the runs and the breaker.
pub(super) struct StatusReport<'a, T: PortTypes> {
    pub(super) ports: &'a Ports<T>,
    pub(super) settings: Settings,
}

impl<T: PortTypes> StatusReport<'_, T> {
    /// Measures the age of the oldest dead letter, for its alarm.
    pub(super) async fn measure(&self, deadline: Instant) -> Result<(), ReplayError> {
        let now = self.ports.clock.now();
        let age = DeadLetterIndex { ports: self.ports }
            .oldest_age(now, deadline)
            .await?;
        metrics::OLDEST_DEAD_LETTER_AGE.time(age.unwrap_or_default());
        Ok(())
    }

    pub(super) async fn read(&self, deadline: Instant) -> Result<Status, ReplayError> {
        let now = self.ports.clock.now();
        let queue_age = self.ports.events.age().await.unwrap_or_else(|error| {
            tracing::warn!(
                error = display_chain(&error),
                "failed to read the age of the events queue"
            );
            None
        });
        let age = DeadLetterIndex { ports: self.ports }
            .oldest_age(now, deadline)
            .await?;
        let (breaker, breaker_error) = match self.ports.table.circuit().await {
            Ok(circuit) => (circuit.map(breaker::BreakerStatus::from), None),
            Err(
                error @ ServiceError {
                    fault: Fault::Unreadable,
                    ..
                },
            ) => (None, Some(display_chain(&error))),
            Err(error) => return Err(error.into()),
        };
        Ok(Status {
            queue_age_seconds: queue_age.map(|age| age.as_secs()),
            dead_letters_age_seconds: age.map(|age| age.as_secs()),
            queue: self.ports.events.depth().await?,
            dead_letters: self.ports.dead_letters.depth().await?,
            move_task: self.ports.redrive.latest_move().await?,
            bulk_replay: self.ports.bulk_replay().await?.map(BulkReplayStatus::from),
            run: self
                .ports
                .table
                .lease(LeaseName::DeadLetters, now)
                .await?
                .map(RunInProgress::from),
            breaker,
            breaker_error,
            target_rate_per_second: self.settings.target_rate,
            order: self.order(now).await?,
            attempts: self.attempts(now).await?,
            canary: self.canary().await?,
        })
    }

    async fn canary(&self) -> Result<Option<CanaryStatus>, ServiceError> {
        let minutes = self.settings.canary_minutes;
        if minutes == 0 {
            return Ok(None);
        }
        let runs = self.ports.table.canary_runs().await?.runs;
        Ok(Some(CanaryStatus { minutes, runs }))
    }

    async fn order(&self, now: Timestamp) -> Result<Option<OrderStatus>, ServiceError> {
        let Some(ordered) = &self.ports.ordered else {
            return Ok(None);
        };
        let (waiting, more) = self.ports.table.waiting(SHOWN_CONVERSATIONS, now).await?;
        let items = waiting
            .into_iter()
            .filter_map(WaitingConversation::of)
            .collect();
        Ok(Some(OrderStatus {
            mode: ordered.mode,
            queue: ordered.queue.depth().await?,
            dead_letters: ordered.dead_letters.depth().await?,
            waiting: WaitingConversations { items, more },
        }))
    }

    async fn attempts(&self, now: Timestamp) -> Result<Vec<AttemptsOfMinute>, ServiceError> {
        let minutes = minutes_before(now, SHOWN_MINUTES);
        let attempts = self.ports.table.attempts(&minutes).await?.into_iter();
        let of_minute = |(
            minute,
            Attempts {
                delivered,
                failed,
                credentials_failed,
                ..
            },
        )| AttemptsOfMinute {
            minute,
            delivered,
            failed,
            credentials_failed,
        };
        Ok(minutes.into_iter().zip(attempts).map(of_minute).collect())
    }
}
