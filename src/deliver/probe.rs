//! Attempts one event while the target may be down, to see whether it is back.
//!
//! A target that cannot process certain events fails those at any time; a target that is down fails
//! all. So the probe chooses an event that has not failed before, if there is one, and else the one
//! with the fewest attempts.
//!
//! It is an attempt like any other, with one exception: while the target has accepted nothing since
//! the event was last attempted, a failure says nothing about the event. The event then stays in
//! the queue whatever the answer (404 to everything, perhaps), and a new message takes the place of
//! the old one, so that the receive does not count.

use std::time::Duration;

use futures_util::future::join_all;
use jiff::Timestamp;
use tokio::time::{Instant, timeout};

use crate::deliver::attempt::ClaimOutcome;
use crate::deliver::backoff::Disposition;
use crate::deliver::ports::PortTypes;
use crate::deliver::processor::Processor;
use crate::deliver::renew::renew;
use crate::deliver::visibility::set_visibility;
use crate::domain::circuit::Probed;
use crate::domain::event::Event;
use crate::domain::event_record::{Attempt, Claim};
use crate::ports::clock::Clock;
use crate::ports::events_table::{EventsTable, Written};
use crate::ports::queue::{
    RECEIVED_AT_ONCE, ReceiptHandle, ReceivedMessage, Receiver, VisibilityTimeout,
};
use crate::ports::service::ServiceError;
use crate::ports::target::{DeliveryFailure, FailureCause};
use crate::runtime::logging::display_chain;
use crate::runtime::metrics;

/// Upper bound on the messages examined to find an event that was never attempted.
const MAX_EXAMINED: usize = 100;

/// Upper bound on the events that the probe tries to claim.
const MAX_CLAIMS: usize = 5;

/// The wait time of a receive: a long poll asks all servers of the queue.
const WAIT: Duration = Duration::from_secs(1);

/// Examined messages stay hidden for this long where the queue holds more: the next probes examine
/// others.
const ASIDE: Duration = Duration::from_mins(5);

/// A message that the probe has received.
struct Candidate {
    received: ReceivedMessage,
    /// Attempts at its event so far, and the time of the last: the fewest and the oldest come
    /// first.
    attempts: (u32, Option<Timestamp>),
    /// True if the target has accepted another event since that attempt. A failure then counts.
    counts: bool,
}

impl Candidate {
    fn is_untried(&self) -> bool {
        self.attempts.0 == 0
    }
}

/// The messages that the probe has received.
struct Examined {
    candidates: Vec<Candidate>,
    /// True if the queue may hold a better candidate.
    are_more: bool,
}

impl<T: PortTypes> Processor<T> {
    /// Attempts one event of the queue, if one is due. The target last accepted an event at
    /// `delivered_at`.
    ///
    /// # Errors
    /// The queue could not be received from. Nothing is lost by that.
    pub async fn probe(
        &self,
        delivered_at: Option<Timestamp>,
        deadline: Instant,
    ) -> Result<Probed, ServiceError> {
        let Examined {
            mut candidates,
            are_more,
        } = self.examine(delivered_at, deadline).await?;
        if let Some(pace) = &self.pace {
            pace.begin().await;
        }
        candidates.sort_by_key(|candidate| candidate.attempts);
        let mut candidates = candidates.into_iter();
        let mut claimed = None;
        for candidate in candidates.by_ref().take(MAX_CLAIMS) {
            // Where a failure does not count, the message is as new: not at its last receive, nor
            // at its nth.
            let receive_count = if candidate.counts {
                candidate.received.receive_count
            } else {
                1
            };
            let is_used_up = self.backoff.is_last(candidate.received.receive_count);
            let received = ReceivedMessage {
                receive_count,
                ..candidate.received
            };
            match self.begin(&received, deadline).await {
                ClaimOutcome::Ended(Disposition::RetryAt(_)) if is_used_up => {
                    self.renew(vec![received], Instant::now()).await;
                }
                ClaimOutcome::Ended(disposition) => self.apply(received, disposition).await,
                ClaimOutcome::Claimed(event, claim) => {
                    claimed = Some((
                        Candidate {
                            received,
                            ..candidate
                        },
                        event,
                        claim,
                    ));
                    break;
                }
            }
        }
        // A message that is not made visible in time comes back by itself.
        let left = deadline.saturating_duration_since(Instant::now());
        if timeout(left / 4, self.put_back(candidates, are_more))
            .await
            .is_err()
        {
            tracing::warn!("no time left to make examined messages visible; they come back later");
        }
        let Some((candidate, event, claim)) = claimed else {
            return Ok(Probed::Nothing);
        };
        Ok(self
            .attempt_candidate(candidate, &event, &claim, deadline)
            .await)
    }

    /// Receives messages until one of them has not been attempted, or there are no more.
    ///
    /// A single message first: mostly that is enough, and each examined message has cost a receive.
    async fn examine(
        &self,
        delivered_at: Option<Timestamp>,
        deadline: Instant,
    ) -> Result<Examined, ServiceError> {
        // The attempt needs the rest.
        let until = Instant::now() + deadline.saturating_duration_since(Instant::now()) / 4;
        let (mut candidates, mut most): (Vec<Candidate>, _) = (Vec::new(), 1);
        loop {
            let hidden = deadline.saturating_duration_since(Instant::now());
            let received = match self.ports.events.receive(most, hidden, WAIT).await {
                Ok(received) => received,
                Err(error) if candidates.is_empty() => return Err(error),
                Err(error) => {
                    tracing::warn!(
                        error = display_chain(&error),
                        "failed to receive more candidates"
                    );
                    return Ok(Examined {
                        candidates,
                        are_more: false,
                    });
                }
            };
            let is_all = received.is_empty();
            candidates.extend(
                join_all(
                    received
                        .into_iter()
                        .map(|received| self.candidate(received, delivered_at)),
                )
                .await,
            );
            if is_all || candidates.iter().any(Candidate::is_untried) {
                return Ok(Examined {
                    candidates,
                    are_more: false,
                });
            }
            if candidates.len() >= MAX_EXAMINED || Instant::now() >= until {
                return Ok(Examined {
                    candidates,
                    are_more: true,
                });
            }
            most = RECEIVED_AT_ONCE;
        }
    }

    async fn candidate(
        &self,
        received: ReceivedMessage,
        delivered_at: Option<Timestamp>,
    ) -> Candidate {
        let found = match received.message.to_event(received.stamp()) {
            Ok(event) => self.ports.table.get(&event.id).await,
            // Unreadable, so it has no record: it comes last.
            Err(_) => {
                return Candidate {
                    received,
                    attempts: (u32::MAX, None),
                    counts: false,
                };
            }
        };
        let attempts = match &found {
            Ok(Some(found)) => (
                found.attempts_made,
                found.attempts.last().map(|attempt| attempt.at),
            ),
            Ok(None) => (0, None),
            Err(error) => {
                tracing::warn!(
                    error = display_chain(error),
                    "failed to read the attempts of a candidate"
                );
                (u32::MAX, None)
            }
        };
        let counts = attempts
            .1
            .is_some_and(|attempted_at| delivered_at > Some(attempted_at));
        Candidate {
            received,
            attempts,
            counts,
        }
    }

    async fn attempt_candidate(
        &self,
        candidate: Candidate,
        event: &Event,
        claim: &Claim,
        deadline: Instant,
    ) -> Probed {
        let Candidate {
            received, counts, ..
        } = candidate;
        let event_id = event.id.to_string();
        let (attempt, outcome) = self.attempt(event, claim, deadline).await;
        let Err(failure) = outcome else {
            let disposition = self
                .record_delivery(&received, event, claim, attempt, deadline)
                .await;
            self.apply(received, disposition).await;
            return Probed::Delivered { event_id };
        };
        let is_postponed = failure.cause == FailureCause::Postponed;
        if counts || is_postponed {
            let disposition = self
                .record_failure(&received, event, claim, attempt, &failure, deadline)
                .await;
            self.apply(received, disposition).await;
        } else {
            self.keep(received, event, claim, attempt, &failure).await;
        }
        if is_postponed {
            return Probed::Nothing;
        }
        Probed::Failed {
            event_id,
            error: failure.detail,
        }
    }

    /// Keeps an event in the queue whose failure does not count. It may be the only one to probe
    /// with.
    async fn keep(
        &self,
        received: ReceivedMessage,
        event: &Event,
        claim: &Claim,
        attempt: Attempt,
        failure: &DeliveryFailure,
    ) {
        let delay = self.backoff.delay(1, failure.retry_after);
        let (now, at) = (self.ports.clock.now(), Instant::now() + delay);
        let transition = claim.retrying_uncounted(attempt, now + delay, now);
        metrics::RETRIED.add(1);
        self.backoff
            .log_failure(&received, Some(event), failure, Disposition::RetryAt(at));
        match self.ports.table.write(&transition).await {
            Ok(Written::Done | Written::Lost(_)) => {}
            Err(error) => {
                tracing::error!(event_id = %event.id, error = display_chain(&error), "failed to record the attempt");
            }
        }
        // Also where another worker finished the event first: its record shows that the new message
        // is a duplicate.
        self.renew(vec![received], Instant::now()).await;
    }

    /// Makes examined messages visible again.
    ///
    /// Each has cost a receive without an attempt. Where the target has accepted nothing since its
    /// last attempt, half of its receives are left for attempts. SQS never moves a message to the
    /// dead letters for having been examined.
    async fn put_back(&self, candidates: impl Iterator<Item = Candidate>, are_more: bool) {
        let is_spent = |Candidate {
                            received, counts, ..
                        }: &Candidate| {
            let count = received.receive_count;
            self.backoff.is_last(count)
                || (!counts && self.backoff.is_last(count.saturating_mul(2)))
        };
        let (spent, others): (Vec<_>, Vec<_>) = candidates.partition(is_spent);
        self.renew(
            spent
                .into_iter()
                .map(|candidate| candidate.received)
                .collect(),
            Instant::now(),
        )
        .await;
        let hidden = if are_more { ASIDE } else { Duration::ZERO };
        let shown: Vec<_> = others
            .into_iter()
            .map(|candidate| (candidate.received.receipt, hidden))
            .collect();
        for error in self
            .ports
            .events
            .change_visibility(&shown)
            .await
            .into_iter()
            .filter_map(Result::err)
        {
            tracing::warn!(
                error = display_chain(&error),
                "failed to make an examined message visible; it comes back later"
            );
        }
    }

    /// Does with a message what the event source mapping does with those of a batch.
    async fn apply(&self, received: ReceivedMessage, disposition: Disposition) {
        match disposition {
            Disposition::Delete => self.delete(&[received.receipt]).await,
            Disposition::RetryAt(at) => {
                set_visibility(&self.ports.events, &[(&received, at)]).await;
            }
            Disposition::RenewAt(at) => self.renew(vec![received], at).await,
        }
    }

    /// Puts a new message in place of each that has used up receives, to be received from this time
    /// on. The old one stays until the new one is durable.
    async fn renew(&self, spent: Vec<ReceivedMessage>, at: Instant) {
        let spent_at: Vec<_> = spent.iter().map(|received| (received, at)).collect();
        let renewed = renew(&self.ports.events, &spent_at).await;
        let done = spent.into_iter().zip(renewed).filter(|(_, done)| *done);
        let receipts: Vec<_> = done.map(|(received, _)| received.receipt).collect();
        self.delete(&receipts).await;
    }

    /// Deletes messages. One that comes back all the same is a duplicate by its record.
    async fn delete(&self, receipts: &[ReceiptHandle]) {
        for error in self
            .ports
            .events
            .delete(receipts)
            .await
            .into_iter()
            .filter_map(Result::err)
        {
            tracing::warn!(
                error = display_chain(&error),
                "failed to delete a message; it comes back as a duplicate"
            );
        }
    }
}
