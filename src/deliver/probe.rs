//! Lets one event through to a target that may be away.
//!
//! A target that cannot digest some events fails those whenever they come; one that is away fails all. So it is an event
//! that has not failed before, if there is one, and else the one with the fewest attempts.
//!
//! It is an attempt like any other, but for this: while the target has taken nothing since the event was last attempted,
//! its failure says nothing about the event. It then stays in the queue whatever the target says (404 to everything, perhaps),
//! and the receive that it has cost is given back.

use std::time::Duration;

use futures_util::future::join_all;
use jiff::Timestamp;
use tokio::time::{Instant, timeout};

use super::settle::ClaimOutcome;
use super::{Disposition, Processor, ReceivedMessage};
use crate::domain::circuit::Probed;
use crate::domain::event::Event;
use crate::domain::event_record::{Attempt, Claim};
use crate::domain::message::Message;
use crate::ports::clock::Clock;
use crate::ports::events_table::{EventsTable, Written};
use crate::ports::queue::{QueueError, RECEIVED_AT_ONCE, ReceiptHandle, Received, Receiver, Sender};
use crate::ports::target::{Failure, Target};
use crate::runtime::logging::display_chain;
use crate::runtime::metrics;

/// So many messages are looked at, at the most, for one that has not been attempted.
const LOOKS: usize = 100;

/// So many of them are begun with, until one is due.
const BEGINNINGS: usize = 5;

/// A receive looks at all servers of the queue, and waits so long for a message.
const WAIT: Duration = Duration::from_secs(1);

/// Where there are more than are looked at, those that were stay away for so long: the next probes look at others.
const ASIDE: Duration = Duration::from_mins(5);

/// A message that the probe has received.
struct Candidate {
    record: ReceivedMessage,
    receipt: ReceiptHandle,
    /// Attempts at its event so far, and the time of the last: the fewest and the oldest come first.
    attempts: (u32, Option<Timestamp>),
    /// Whether the target has taken another event since that attempt. A failure then counts.
    counts: bool,
}

impl Candidate {
    fn is_untried(&self) -> bool {
        self.attempts.0 == 0
    }
}

/// Messages that the probe has received, and whether the queue may hold more that could be better.
struct Looked {
    candidates: Vec<Candidate>,
    are_more: bool,
}

impl<E, D, W, T, C> Processor<E, D, W, T, C>
where
    E: Sender + Receiver,
    D: Sender,
    W: EventsTable,
    T: Target,
    C: Clock,
{
    /// Lets one event of the queue through, if one is due, and says what came of it. The target last took one at
    /// `delivered_at`.
    ///
    /// # Errors
    /// When the queue does not hand out anything. Nothing is lost by that.
    pub async fn probe(&self, delivered_at: Option<Timestamp>, deadline: Instant) -> Result<Probed, QueueError> {
        let Looked { mut candidates, are_more } = self.look(delivered_at, deadline).await?;
        candidates.sort_by_key(|candidate| candidate.attempts);
        let mut candidates = candidates.into_iter();
        let mut begun = None;
        for candidate in candidates.by_ref().take(BEGINNINGS) {
            // What does not count is as new in the queue: it is not its last time, nor the nth.
            let receive_count = if candidate.counts { candidate.record.receive_count } else { 1 };
            let is_used_up = self.schedule.is_last(candidate.record.receive_count);
            let record = ReceivedMessage { receive_count, ..candidate.record };
            match self.begin(&record, deadline).await {
                ClaimOutcome::Ended(Disposition::RetryAt(_)) if is_used_up => {
                    self.renew(vec![(record, candidate.receipt)]).await;
                }
                ClaimOutcome::Ended(settlement) => self.settled(&record, candidate.receipt, settlement).await,
                ClaimOutcome::Claimed(event, claim) => {
                    begun = Some((Candidate { record, ..candidate }, event, claim));
                    break;
                }
            }
        }
        // What is not shown again in time comes back by itself.
        let left = deadline.saturating_duration_since(Instant::now());
        if timeout(left / 4, self.put_back(candidates, are_more)).await.is_err() {
            tracing::warn!("messages that were only looked at come back later: the queue takes too long");
        }
        let Some((candidate, event, claim)) = begun else { return Ok(Probed::Nothing) };
        Ok(self.let_through(candidate, &event, &claim, deadline).await)
    }

    /// Receives messages until one of them has not been attempted, or there are no more.
    ///
    /// First a single one: mostly that is enough, and each that is looked at has cost a receive.
    async fn look(&self, delivered_at: Option<Timestamp>, deadline: Instant) -> Result<Looked, QueueError> {
        // The attempt needs the rest.
        let until = Instant::now() + deadline.saturating_duration_since(Instant::now()) / 4;
        let (mut candidates, mut most): (Vec<Candidate>, _) = (Vec::new(), 1);
        loop {
            let hidden = deadline.saturating_duration_since(Instant::now());
            let received = match self.events.receive(most, hidden, WAIT).await {
                Ok(received) => received,
                Err(error) if candidates.is_empty() => return Err(error),
                Err(error) => {
                    tracing::warn!(error = display_chain(&error), "failed to receive more events to choose from");
                    return Ok(Looked { candidates, are_more: false });
                }
            };
            let is_all = received.is_empty();
            candidates.extend(join_all(received.into_iter().map(|it| self.candidate(it, delivered_at))).await);
            if is_all || candidates.iter().any(Candidate::is_untried) {
                return Ok(Looked { candidates, are_more: false });
            }
            if candidates.len() >= LOOKS || Instant::now() >= until {
                return Ok(Looked { candidates, are_more: true });
            }
            most = RECEIVED_AT_ONCE;
        }
    }

    async fn candidate(&self, received: Received, delivered_at: Option<Timestamp>) -> Candidate {
        let Received { message, receipt, sent_at, message_id, receive_count } = received;
        let record = ReceivedMessage { message_id, receipt: Some(receipt.clone()), receive_count, sent_at, message };
        let found = match record.message.to_event(record.stamp()) {
            Ok(event) => self.table.get(&event.id).await,
            // It has no record; it is for others to say what is wrong with it, if there are others.
            Err(_) => return Candidate { record, receipt, attempts: (u32::MAX, None), counts: false },
        };
        let attempts = match &found {
            Ok(Some(found)) => (found.attempts_made, found.attempts.last().map(|attempt| attempt.at)),
            Ok(None) => (0, None),
            Err(error) => {
                tracing::warn!(error = display_chain(error), "failed to read how often an event was attempted");
                (u32::MAX, None)
            }
        };
        let counts = attempts.1.is_some_and(|attempted_at| delivered_at > Some(attempted_at));
        Candidate { record, receipt, attempts, counts }
    }

    /// Attempts the event, and says what came of it.
    async fn let_through(&self, candidate: Candidate, event: &Event, claim: &Claim, deadline: Instant) -> Probed {
        let Candidate { record, receipt, counts, .. } = candidate;
        let event_id = event.id.to_string();
        let (attempt, outcome) = self.attempt(event, claim, deadline).await;
        let Err(failure) = outcome else {
            let settlement = self.record_delivery(&record, event, claim, attempt, deadline).await;
            self.settled(&record, receipt, settlement).await;
            return Probed::Delivered { event_id };
        };
        if counts {
            let settlement = self.failed(&record, event, claim, attempt, &failure, deadline).await;
            self.settled(&record, receipt, settlement).await;
        } else {
            self.keep(record, receipt, event, claim, attempt, &failure).await;
        }
        Probed::Failed { event_id, error: failure.detail }
    }

    /// Keeps an event in the queue whose failure says nothing about it. It may be the only one to see by.
    async fn keep(
        &self,
        record: ReceivedMessage,
        receipt: ReceiptHandle,
        event: &Event,
        claim: &Claim,
        attempt: Attempt,
        failure: &Failure,
    ) {
        let delay = self.delay(1, failure.retry_after);
        let (now, at) = (self.clock.now(), Instant::now() + delay);
        let step = claim.retrying(attempt, now + delay, now);
        metrics::RETRIED.add(1);
        self.log_failure(&record, Some(event), failure, Disposition::RetryAt(at));
        match self.table.write(&step).await {
            Ok(Written::Done | Written::Lost(_)) => {}
            Err(error) => {
                tracing::error!(event_id = %event.id, error = display_chain(&error), "how the attempt went is not recorded");
            }
        }
        // Also where somebody else was faster: a copy of what is delivered is told from it by its record.
        self.renew(vec![(record, receipt)]).await;
    }

    /// Shows messages again that were only looked at.
    ///
    /// That has cost each a receive without an attempt. Where nothing was delivered since its last, half of its receives are
    /// left for attempts; and SQS never moves one to the dead letters for having been looked at.
    async fn put_back(&self, candidates: impl Iterator<Item = Candidate>, are_more: bool) {
        let is_spent = |Candidate { record, counts, .. }: &Candidate| {
            let count = record.receive_count;
            self.schedule.is_last(count) || (!counts && self.schedule.is_last(count.saturating_mul(2)))
        };
        let (spent, others): (Vec<_>, Vec<_>) = candidates.partition(is_spent);
        self.renew(spent.into_iter().map(|it| (it.record, it.receipt)).collect()).await;
        let hidden = if are_more { ASIDE } else { Duration::ZERO };
        let shown: Vec<_> = others.into_iter().map(|it| (it.receipt, hidden)).collect();
        for error in self.events.change_visibility(&shown).await.into_iter().filter_map(Result::err) {
            tracing::warn!(error = display_chain(&error), "a message that was only looked at comes back later");
        }
    }

    /// Does with a message what the event source mapping does with those of a batch.
    async fn settled(&self, record: &ReceivedMessage, receipt: ReceiptHandle, settlement: Disposition) {
        match settlement {
            Disposition::Delete => self.forget(&[receipt]).await,
            Disposition::RetryAt(at) => self.set_visibility(&[(record, at)]).await,
        }
    }

    /// Puts a new message in place of each that has used up receives. Until the new one is durable the old one stays.
    async fn renew(&self, spent: Vec<(ReceivedMessage, ReceiptHandle)>) {
        let renewed = |(record, _): &(ReceivedMessage, _)| record.message.clone().with_identity(record.stamp());
        let messages: Vec<Message> = spent.iter().map(renewed).collect();
        let results = self.events.send_all(&messages).await;
        let mut done = Vec::new();
        for ((record, receipt), result) in spent.into_iter().zip(results) {
            match result {
                Ok(()) => done.push(receipt),
                Err(error) => tracing::warn!(
                    event_id = record.message.event_id(),
                    message_id = record.message_id,
                    error = display_chain(&error),
                    "an event could not be put back as new, and has used up a receive"
                ),
            }
        }
        self.forget(&done).await;
    }

    /// Deletes messages. What comes back all the same is known by its record.
    async fn forget(&self, receipts: &[ReceiptHandle]) {
        for error in self.events.delete(receipts).await.into_iter().filter_map(Result::err) {
            tracing::warn!(error = display_chain(&error), "a message that is done with comes back");
        }
    }
}
