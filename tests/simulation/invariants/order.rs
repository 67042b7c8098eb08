//! Invariants of the order of conversations.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use genesys_relay::domain::conversation::ConversationKey;
use genesys_relay::domain::event::{Event, EventId};
use genesys_relay::domain::event_record::{Death, EventRecord};
use genesys_relay::domain::failure::ReasonKind;
use genesys_relay::domain::message::Message;
use genesys_relay::ports::clock::Clock as _;
use genesys_relay::ports::target::OutOfOrder;
use genesys_relay::testing::FakeClock;
use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;

use super::{Invariants, TOLERANCE, is_check, label_of};
use crate::faults::Service;
use crate::lock;

/// Places of the events in their conversations. An event is known by the label of its body, and by
/// its id where the same body came twice, as two events.
#[derive(Default)]
pub(super) struct Line {
    /// Conversation of each event that the ordered queue has had, and the number of its first
    /// message there.
    places: BTreeMap<String, BTreeMap<EventId, (String, usize)>>,
    /// Number of places.
    taken: usize,
    /// The last place of each conversation that the target has accepted without a mark.
    reached: BTreeMap<String, (usize, String)>,
    /// Events that another queue has had.
    elsewhere: BTreeSet<String>,
}

/// Place of the ordered queue's dead letters among the queues.
const ORDERED_DEAD_LETTERS: usize = 3;

impl Invariants {
    /// Notes the queue that has a message of an event, and returns whether the event has left its
    /// conversation by that. Only a sender and an operator give it a place there.
    pub(crate) fn queued_in(&self, service: Service, message: &Message, by: &str) -> bool {
        if is_check(message) {
            if service == Service::Ordered {
                self.violate("a check event is sent to the ordered queue");
            }
            return false;
        }
        let label = label_of(message.body.as_bytes());
        let is_of_processor = matches!(by, "processor" | "probe");
        let mut line = lock(&self.line);
        if service != Service::Ordered {
            let is_first = line.elsewhere.insert(label.clone());
            return service == Service::Events
                && is_of_processor
                && is_first
                && line.places.contains_key(&label);
        }
        let place = line.taken;
        line.taken += 1;
        let conversation = message.group.clone().unwrap_or_default();
        let id = message.identity(FakeClock.now()).0;
        line.places
            .entry(label.clone())
            .or_default()
            .entry(id)
            .or_insert((conversation, place));
        drop(line);
        if is_of_processor {
            self.violate(&format!("the {by} sends {label} to the ordered queue"));
        }
        false
    }

    /// Checks that an event that the target accepts for the first time does not come after a later
    /// one of its conversation, or says so.
    pub(super) fn check_order(&self, event: &Event, order: Option<OutOfOrder>) {
        if ConversationKey::of(event).is_none() {
            return;
        }
        let label = label_of(&event.body);
        let (attempts, replays) = self
            .table
            .record(&event.id)
            .map_or((0, 0), |record| (record.attempts_made, record.replays_made));
        // The recovery finds what its sender gave up, and that has no place.
        let is_recovered = lock(&self.seen)
            .labels
            .get(&label)
            .is_some_and(|labelled| !labelled.given_up.is_empty());
        // SQS has taken an earlier copy of it out of the line, after a thousand receives in which the
        // table was away: no record tells the copy that is left that it has lost its place.
        let is_netted = attempts < 2
            && self.queues[ORDERED_DEAD_LETTERS]
                .messages()
                .iter()
                .any(|message| label_of(message.body.as_bytes()) == label);
        let mut line = lock(&self.line);
        // Under another id where another body had its own.
        let places = line.places.get(&label);
        let place = places.and_then(|places| {
            let first = || places.values().min_by_key(|(_, place)| *place);
            places.get(&event.id).or_else(first).cloned()
        });
        let had_place = attempts < 2 && !is_recovered && !line.elsewhere.contains(&label);
        let problem = match (order, place) {
            (Some(OutOfOrder::Late), _) => {
                had_place.then(|| "is late, and never left its conversation".to_owned())
            }
            (Some(OutOfOrder::Replayed), _) => {
                (replays == 0).then(|| "was not replayed, and says so".to_owned())
            }
            (None, None) => Some("has no place in its conversation, and no mark".to_owned()),
            (None, Some((conversation, place))) => {
                let reached = line
                    .reached
                    .entry(conversation)
                    .or_insert_with(|| (place, label.clone()));
                let later = (reached.0 > place && !is_netted).then(|| reached.1.clone());
                if reached.0 < place {
                    *reached = (place, label.clone());
                }
                later.map(|later| format!("comes after {later} of its conversation, unmarked"))
            }
        };
        drop(line);
        if let Some(problem) = problem {
            self.violate(&format!("{label} {problem}"));
        }
    }

    /// Returns whether a retry comes at the end of the patience, sooner than its backoff says.
    pub(super) fn is_end_of_patience(&self, record: &EventRecord, wait: SignedDuration) -> bool {
        let waiting = record.waiting.as_ref();
        let Some(since) = waiting.and_then(|waiting| waiting.failing_since) else {
            return false;
        };
        let end = since + self.patience;
        let is_end = (end.duration_since(record.last_seen_at) - wait).abs() <= TOLERANCE;
        if is_end {
            lock(&self.seen)
                .not_before
                .insert(record.event_id.clone(), FakeClock.now() + wait);
        }
        is_end
    }

    /// Checks that a conversation waits for an event no longer than the patience, but for failures
    /// that say nothing about the event.
    pub(super) fn check_patience(
        &self,
        before: Option<&EventRecord>,
        after: &EventRecord,
        next_attempt_at: Timestamp,
    ) {
        let Some(waiting) = &after.waiting else {
            return;
        };
        let id = &after.event_id;
        let earlier = before.and_then(|before| before.waiting.as_ref());
        if earlier.is_some_and(|earlier| earlier.since != waiting.since) {
            self.violate(&format!("the wait for {id} begins again"));
        }
        // Failures of the relay's credentials do not count.
        let Some(since) = waiting.failing_since else {
            return;
        };
        // Without a request, or without an attempt that counts.
        let is_uncounted = before.is_some_and(|before| {
            before.attempts_made > after.attempts_made
                || before.attempts_since_claim > after.attempts_since_claim
        }) || lock(&self.seen).uncounted.contains_key(id);
        if !is_uncounted && next_attempt_at > since + self.patience + TOLERANCE {
            self.violate(&format!(
                "{id} is retried in its conversation at {next_attempt_at}, which waits since {since}, longer than {:?}",
                self.patience
            ));
        }
    }

    /// Checks that an event that leaves its conversation is recorded as out of its place before: a
    /// message of it that comes later there would be taken for one in its place.
    pub(crate) fn check_departure(&self, message: &Message) {
        let now = FakeClock.now();
        let Ok(event) = message.to_event(now) else {
            return;
        };
        // Another body may have the message's id.
        let record = self.table.record(&event.id);
        let own = record.and_then(|record| record.other_event(&event, now));
        let id = own.unwrap_or(event.id);
        let record = self.table.record(&id);
        if record.is_some_and(|record| record.waiting.is_some()) {
            self.violate(&format!("{id} leaves its conversation, which waits for it"));
        }
    }

    /// Checks that an event that was never out of its conversation is exhausted by its own attempts,
    /// and not by receives.
    pub(super) fn check_exhaustion(&self, after: &EventRecord, death: &Death) {
        if death.reason != ReasonKind::Exhausted || after.attempts_since_claim >= self.max_receives
        {
            return;
        }
        // An id that several events share is the record of one of them, and any may be that one.
        let labels = self.labels_of_record(&after.event_id);
        let is_in_line = {
            let line = lock(&self.line);
            let is_there =
                |label| line.places.contains_key(label) && !line.elsewhere.contains(label);
            labels.iter().all(is_there)
        };
        if let Some(label) = labels.first().filter(|_| is_in_line) {
            self.violate(&format!(
                "{label} is exhausted after {} attempts of {}",
                after.attempts_since_claim, self.max_receives
            ));
        }
    }

    fn labels_of_record(&self, id: &EventId) -> Vec<String> {
        let seen = lock(&self.seen);
        let labels = seen.labels.iter();
        let found = labels.filter(|(_, labelled)| labelled.recorded.contains(id));
        found.map(|(label, _)| label.clone()).collect()
    }

    /// Checks that a message becomes visible at the same time as the first of its conversation that
    /// a batch has left.
    pub(crate) fn check_visible_together(&self, group: &str, first: Instant, at: Instant) {
        if first.max(at) - first.min(at) > Duration::from_secs(1) {
            self.violate(&format!(
                "messages of the conversation {group} become visible at different times"
            ));
        }
    }
}
