//! The order of conversations: a message of the ordered queue is delivered before those behind it,
//! unless its conversation has waited for it for too long.
//!
//! An event that leaves the line goes on in the standard queue, and the target is told.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

use crate::deliver::backoff::{Disposition, LONGEST_ORDERED_RETRY};
use crate::deliver::ports::PortTypes;
use crate::deliver::processor::{Order, Processor};
use crate::deliver::renew::renew;
use crate::domain::conversation::ConversationKey;
use crate::domain::event::Event;
use crate::domain::event_record::Claim;
use crate::ports::clock::Clock;
use crate::ports::queue::ReceivedMessage;
use crate::ports::target::{FailureCause, OutOfOrder};
use crate::runtime::metrics;

/// A message of the ordered queue that was received this often leaves the line: after 1000 receives
/// SQS moves it to the dead letters, whether it was attempted or not.
const MOST_ORDERED_RECEIVES: u32 = 900;

/// An event that was attempted this often leaves the line after a probe that fails.
const MOST_PROBES_IN_PLACE: u32 = 5;

/// The order where a message of the ordered queue comes to a function that was not told of one: the
/// queue of a stack that no longer keeps the order.
const UNTOLD: Order = Order {
    patience: Duration::from_mins(2),
    request_time: Duration::from_secs(10),
};

/// The next attempt at an event that failed in its place.
pub(super) enum NextAttempt {
    /// In its place, after a delay.
    Here(Duration),
    /// The conversation goes on without it.
    OutOfOrder,
}

/// The messages of a batch that are processed one after another, by their positions.
pub(super) type Line = VecDeque<usize>;

/// The lines of a batch: a group of the ordered queue is one, and each other message is one of its
/// own.
pub(super) fn lines(batch: &[ReceivedMessage]) -> Vec<Line> {
    let mut lines: Vec<Line> = Vec::new();
    let mut of_group = HashMap::new();
    for (position, received) in batch.iter().enumerate() {
        let group = received.message.group.as_deref();
        match group.filter(|_| received.is_ordered) {
            Some(group) => {
                let line = *of_group.entry(group).or_insert(lines.len());
                if line == lines.len() {
                    lines.push(Line::new());
                }
                lines[line].push_back(position);
            }
            None => lines.push(Line::from([position])),
        }
    }
    lines
}

/// Sends back a message whose attempt does not count. In its place in the order it becomes visible
/// again; elsewhere a new message takes its place, so that its receive does not count either.
pub(super) fn uncounted(is_in_place: bool, at: Instant) -> Disposition {
    if is_in_place {
        Disposition::RetryAt(at)
    } else {
        Disposition::RenewAt(at)
    }
}

/// Measures the time for which a conversation has waited for an event.
pub(super) fn measure_wait(claim: &Claim, now: Timestamp) {
    if let Some(conversation) = claim.conversation() {
        let since = claim.waiting_since().unwrap_or(now);
        let waited = now.duration_since(since).try_into().unwrap_or_default();
        metrics::CONVERSATION_WAIT.time(waited);
        tracing::debug!(conversation, ?waited, "a conversation waits");
    }
}

impl<T: PortTypes> Processor<T> {
    fn order(&self) -> Order {
        self.order.unwrap_or(UNTOLD)
    }

    /// The queue that holds a message.
    pub(super) fn queue_of(&self, received: &ReceivedMessage) -> Option<&T::Events> {
        if received.is_ordered {
            self.ports.ordered.as_ref()
        } else {
            Some(&self.ports.events)
        }
    }

    /// Returns whether an invocation that ends at `deadline` has time for one more message of a line.
    pub(super) fn has_time_for_next(&self, deadline: Instant) -> bool {
        Instant::now() + self.order().request_time + super::SETTLE_TIME <= deadline
    }

    /// The end of the time for which a conversation waits for the claimed event; `None` before its
    /// first failure, and outside the order.
    fn patience_ends(&self, claim: &Claim) -> Option<Timestamp> {
        claim.conversation()?;
        let since = claim.failing_since()?;
        since.checked_add(self.order().patience).ok()
    }

    /// Decides where an event is attempted again that failed in its place and would be retried after
    /// `delay`. It is attempted once more when the patience ends.
    ///
    /// One that had lost its place before holds nothing back.
    pub(super) fn retry_in_order(
        &self,
        claim: &Claim,
        delay: Duration,
        retry_after: Option<Duration>,
        now: Timestamp,
    ) -> NextAttempt {
        if !claim.is_in_place() {
            return NextAttempt::OutOfOrder;
        }
        let left = match self.patience_ends(claim) {
            Some(end) => Duration::try_from(end.duration_since(now)).unwrap_or_default(),
            None => self.order().patience,
        };
        if left.is_zero() || retry_after.is_some_and(|wait| wait > left) {
            return NextAttempt::OutOfOrder;
        }
        NextAttempt::Here(delay.min(left))
    }

    /// Returns whether a claimed event leaves the line of the ordered queue without an attempt: SQS
    /// would soon take it out of the queue, or it may be the reason that its workers ended, and has
    /// had its time or its attempts.
    pub(super) fn loses_place(&self, received: &ReceivedMessage, claim: &Claim) -> bool {
        let attempts_before = claim.attempts_since_claim().saturating_sub(1);
        let is_dangerous = match claim.crashes_before() {
            0 => false,
            _ if !claim.is_in_place() || self.backoff.is_last(attempts_before) => true,
            crashes => crashes > 1 && self.is_past_patience(claim),
        };
        received.is_ordered && (Self::is_used_up(received) || is_dangerous)
    }

    /// Returns whether SQS would soon take a message out of the ordered queue.
    pub(super) fn is_used_up(received: &ReceivedMessage) -> bool {
        received.is_ordered && received.receive_count >= MOST_ORDERED_RECEIVES
    }

    /// The decision for an event that could not leave the line of the ordered queue: it is tried
    /// there again soon.
    pub(super) fn stay(&self, received: &ReceivedMessage) -> Disposition {
        let attempt = received.receive_count.min(LONGEST_ORDERED_RETRY);
        Disposition::RetryAt(Instant::now() + self.backoff.delay(attempt, None))
    }

    fn is_past_patience(&self, claim: &Claim) -> bool {
        let now = self.ports.clock.now();
        self.patience_ends(claim).is_some_and(|end| end <= now)
    }

    /// Returns whether an event stays in its place after a probe that does not count. One that was
    /// probed for too long leaves the line: the target may accept the next of its conversation;
    /// not for failures of the relay's credentials, which are the same for that one.
    pub(super) fn keeps_place_after_probe(&self, claim: &Claim, cause: FailureCause) -> bool {
        let now = self.ports.clock.now();
        let is_for_credentials = matches!(cause, FailureCause::Credentials(_));
        // Since the first failure: each probe that does not count restarts the patience.
        let end = claim
            .waiting_since()
            .and_then(|since| since.checked_add(self.order().patience).ok());
        let is_over = end.is_some_and(|end| end <= now);
        let is_given_up = claim.attempt() >= MOST_PROBES_IN_PLACE && is_over;
        claim.is_in_place() && (is_for_credentials || !is_given_up)
    }

    /// Carries out what is decided for a message, where it leaves the line of the ordered queue.
    /// Its copy is durable before the line goes on; until then it comes again, soon.
    pub(super) async fn leave_line(
        &self,
        received: &ReceivedMessage,
        disposition: Disposition,
    ) -> Disposition {
        let Disposition::RenewAt(at) = disposition else {
            return disposition;
        };
        if !received.is_ordered {
            return disposition;
        }
        if renew(&self.ports.events, &[(received, at)]).await != [true] {
            return self.stay(received);
        }
        metrics::REORDERED.add(1);
        tracing::warn!(
            event_id = received.message.event_id(),
            message_id = received.message_id,
            conversation = received.message.group,
            "the event leaves the line of its conversation, which goes on without it"
        );
        Disposition::Delete
    }

    /// Decides what happens with a message whose event is claimed elsewhere for `left`. At its last
    /// receive in the standard queue a new message takes its place: another message of the event may
    /// be renewed for days, and this one does not become a dead letter meanwhile.
    pub(super) fn wait(&self, received: &ReceivedMessage, left: Duration) -> Disposition {
        let at = Instant::now() + left;
        if self.backoff.is_last_receive(received) {
            Disposition::RenewAt(at)
        } else {
            Disposition::RetryAt(at)
        }
    }

    /// The mark of an event that does not come in its place, while the relay keeps an order. In the
    /// standard queue no event has a place.
    pub(super) fn out_of_order(&self, event: &Event, claim: &Claim) -> Option<OutOfOrder> {
        self.order?;
        if claim.replays_made() > 0 && claim.resend().is_none() {
            return ConversationKey::of(event).map(|_| OutOfOrder::Replayed);
        }
        if claim.is_in_place() {
            return None;
        }
        ConversationKey::of(event).map(|_| OutOfOrder::Late)
    }
}
