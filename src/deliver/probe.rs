//! Attempts one event while the target may be down, to see whether it is back.
//!
//! A target that cannot process certain events fails those at any time; a target that is down fails
//! all. So the probe chooses an event that has not failed before, if there is one, and else the one
//! with the fewest attempts.
//!
//! It is an attempt like any other, with one exception: while the target has accepted nothing since
//! the event was last attempted, a failure says nothing about the event. The event then stays in
//! the queue whatever the answer (404 to everything, perhaps). In the standard queue a new message
//! takes the place of the old one, so that the receive does not count; in the ordered queue receives
//! never count, and the message keeps its place.

use std::time::Duration;

use futures_util::future::join_all;
use jiff::Timestamp;
use tokio::time::{Instant, timeout};

use crate::deliver::attempt::ClaimOutcome;
use crate::deliver::backoff::Disposition;
use crate::deliver::batch::ANSWER_TIME;
use crate::deliver::order::uncounted;
use crate::deliver::ports::PortTypes;
use crate::deliver::processor::Processor;
use crate::deliver::renew::renew;
use crate::domain::circuit::Probed;
use crate::domain::event::Event;
use crate::domain::event_record::{Attempt, Claim};
use crate::ports::clock::Clock;
use crate::ports::events_table::{EventsTable, Written};
use crate::ports::queue::{RECEIVED_AT_ONCE, ReceivedMessage, Receiver};
use crate::ports::service::ServiceError;
use crate::ports::target::{DeliveryFailure, FailureCause};
use crate::runtime::logging::display_chain;
use crate::runtime::metrics;

/// Upper bound on the messages examined to find an event that was never attempted.
const MAX_EXAMINED: usize = 100;

/// Upper bound on the events that the probe tries to claim.
const MAX_CLAIMS: usize = 5;

/// Upper bound on the conversations whose first events are examined.
const MAX_EXAMINED_ORDERED: usize = 10;

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
    /// True for a check event, which says nothing about the target: the probe leaves it.
    is_check: bool,
}

impl Candidate {
    fn is_untried(&self) -> bool {
        self.attempts.0 == 0 && !self.is_check
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
        } = self
            .examine(&self.ports.events, delivered_at, deadline)
            .await?;
        if let Some(ordered) = &self.ports.ordered
            && !candidates.iter().any(Candidate::is_untried)
        {
            match self.examine(ordered, delivered_at, deadline).await {
                Ok(first) => candidates.extend(first.candidates),
                Err(error) => tracing::warn!(
                    error = display_chain(&error),
                    "failed to receive from the ordered queue"
                ),
            }
        }
        if let Some(pace) = &self.pace {
            pace.begin().await;
        }
        let (checks, mut candidates): (Vec<_>, Vec<_>) = candidates
            .into_iter()
            .partition(|candidate| candidate.is_check);
        candidates.sort_by_key(|candidate| candidate.attempts);
        let mut candidates = candidates.into_iter();
        let mut claimed = None;
        for candidate in candidates.by_ref().take(MAX_CLAIMS) {
            // Where a failure does not count, the message is as new: not at its last receive, nor
            // at its nth.
            let receive_count = if candidate.counts || candidate.received.is_ordered {
                candidate.received.receive_count
            } else {
                1
            };
            let is_last = self.backoff.is_last_receive(&candidate.received);
            let was_received_before = candidate.received.receive_count > 1;
            let received = ReceivedMessage {
                receive_count,
                ..candidate.received
            };
            match self.begin(&received, was_received_before, deadline).await {
                ClaimOutcome::Ended(Disposition::RetryAt(_)) if is_last => {
                    self.renew(vec![received], Instant::now()).await;
                }
                ClaimOutcome::Ended(disposition) => {
                    self.apply(received, disposition, deadline).await;
                }
                ClaimOutcome::Claimed(event, claim) if self.loses_place(&received, &claim) => {
                    let disposition = self.lose_place(&received, &event, *claim, deadline).await;
                    self.apply(received, disposition, deadline).await;
                }
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
        if timeout(left / 4, self.put_back(candidates.chain(checks), are_more))
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
    /// In the ordered queue one at a time: each is the first of its conversation, and the next
    /// receive skips that conversation.
    async fn examine(
        &self,
        queue: &T::Events,
        delivered_at: Option<Timestamp>,
        deadline: Instant,
    ) -> Result<Examined, ServiceError> {
        // The attempt needs the rest.
        let until = Instant::now() + deadline.saturating_duration_since(Instant::now()) / 4;
        let (mut candidates, mut most): (Vec<Candidate>, _) = (Vec::new(), 1);
        loop {
            let hidden = deadline.saturating_duration_since(Instant::now());
            let received = match queue.receive(most, hidden, WAIT).await {
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
            let are_ordered = received.iter().any(|received| received.is_ordered);
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
            let enough = if are_ordered {
                MAX_EXAMINED_ORDERED
            } else {
                MAX_EXAMINED
            };
            if candidates.len() >= enough || Instant::now() >= until {
                return Ok(Examined {
                    candidates,
                    are_more: true,
                });
            }
            if !are_ordered {
                most = RECEIVED_AT_ONCE;
            }
        }
    }

    async fn candidate(
        &self,
        received: ReceivedMessage,
        delivered_at: Option<Timestamp>,
    ) -> Candidate {
        let found = match received.message.to_event(received.stamp()) {
            Ok(event) if event.is_check() => {
                return Candidate {
                    received,
                    attempts: (0, None),
                    counts: false,
                    is_check: true,
                };
            }
            Ok(event) => self.ports.table.get(&event.id).await,
            // Unreadable, so it has no record: it comes last.
            Err(_) => {
                return Candidate {
                    received,
                    attempts: (u32::MAX, None),
                    counts: false,
                    is_check: false,
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
            is_check: false,
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
            self.apply(received, disposition, deadline).await;
            return Probed::Delivered { event_id };
        };
        let is_postponed = failure.cause == FailureCause::Postponed;
        if counts || is_postponed {
            let disposition = self
                .record_failure(&received, event, claim, attempt, &failure, deadline)
                .await;
            self.apply(received, disposition, deadline).await;
        } else {
            self.keep(received, event, claim, attempt, &failure, deadline)
                .await;
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
        deadline: Instant,
    ) {
        // The next probe may need it again, whatever the target asked for.
        let retry_after = failure.retry_after.filter(|_| !received.is_ordered);
        let delay = self.backoff.delay(1, retry_after);
        let (now, at) = (self.ports.clock.now(), Instant::now() + delay);
        let keeps_place = self.keeps_place_after_probe(claim, failure.cause);
        let claim = if keeps_place {
            claim.clone()
        } else {
            claim.clone().leaving()
        };
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
        // Also where another worker finished the event first: its record shows that the message is a
        // duplicate.
        let disposition = uncounted(keeps_place, Instant::now());
        self.apply(received, disposition, deadline).await;
    }

    /// Makes examined messages visible again.
    ///
    /// Each has cost a receive without an attempt. One that has used up half of its receives gets a
    /// new message in the standard queue, so that SQS does not move it to the dead letters for having
    /// been examined, also where this fails a few times. In the ordered queue receives do not count.
    async fn put_back(&self, candidates: impl Iterator<Item = Candidate>, are_more: bool) {
        let is_spent = |Candidate { received, .. }: &Candidate| {
            let twice = received.receive_count.saturating_mul(2);
            !received.is_ordered && self.backoff.is_last(twice)
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
        let now = Instant::now();
        // Those of the ordered queue always: no new message can take their place, and SQS takes them
        // out of the queue after 1000 receives.
        let shown: Vec<_> = others
            .iter()
            .map(|Candidate { received, .. }| {
                let is_aside = are_more || received.is_ordered;
                (received, if is_aside { now + ASIDE } else { now })
            })
            .collect();
        self.set_visibility(&shown).await;
    }

    /// Does with a message what the event source mapping does with those of a batch, once the
    /// journal has what is delivered.
    async fn apply(&self, received: ReceivedMessage, disposition: Disposition, deadline: Instant) {
        self.write_journal(deadline - ANSWER_TIME).await;
        match self.leave_line(&received, disposition).await {
            Disposition::Delete => self.delete(&[received]).await,
            Disposition::RetryAt(at) => self.set_visibility(&[(&received, at)]).await,
            Disposition::RenewAt(at) => self.renew(vec![received], at).await,
        }
    }

    /// Puts a new message in place of each that has used up receives, to be received from this time
    /// on. The old one stays until the new one is durable.
    async fn renew(&self, spent: Vec<ReceivedMessage>, at: Instant) {
        let spent_at: Vec<_> = spent.iter().map(|received| (received, at)).collect();
        let renewed = renew(&self.ports.events, &spent_at).await;
        let done = spent.into_iter().zip(renewed).filter(|(_, done)| *done);
        let done: Vec<_> = done.map(|(received, _)| received).collect();
        self.delete(&done).await;
    }

    /// Deletes messages. One that comes back all the same is a duplicate by its record.
    async fn delete(&self, done: &[ReceivedMessage]) {
        let (ordered, standard): (Vec<_>, Vec<_>) =
            done.iter().partition(|received| received.is_ordered);
        for done in [standard, ordered] {
            let receipts: Vec<_> = done.iter().map(|done| done.receipt.clone()).collect();
            let Some(queue) = done.first().and_then(|done| self.queue_of(done)) else {
                continue;
            };
            for error in queue
                .delete(&receipts)
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
}
