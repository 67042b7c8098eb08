//! The relay's book of a span of time: for each hour, the accepted events and the states that they
//! are in.
//!
//! An event belongs to the hour (UTC) in which the relay first received it. A copy that the recovery
//! fetched belongs to the hour of its own time in Genesys Cloud.

use std::collections::BTreeMap;
use std::ops::Range;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::domain::event::Source;
use crate::domain::event_record::{EventRecord, StateName};

/// Upper bound on the unreadable items that a book names. All are counted.
pub const MOST_NAMED: usize = 100;

const HOUR: i64 = 3600;

/// The accepted events of one hour.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Hour {
    /// Events with a record.
    pub accepted: u64,
    /// Events that the target accepted, also those that a resend delivers again.
    pub delivered: u64,
    /// Dead letters.
    pub dead: u64,
    /// Dead letters in the archive.
    pub archived: u64,
    /// Events that an operator discarded.
    pub discarded: u64,
    /// Events that an operator erased.
    pub erased: u64,
    /// Events that are queued, in progress, or wait for a retry.
    pub waiting: u64,
    /// Events among the accepted ones that the recovery fetched, as far as their history tells: it
    /// keeps the newest 20 actions, none of an erased event, and none where a worker took the event
    /// before the recovery had recorded it.
    pub recovered: u64,
}

impl Hour {
    /// Returns whether every accepted event is in one state.
    pub fn balances(&self) -> bool {
        let states = [
            self.delivered,
            self.dead,
            self.archived,
            self.discarded,
            self.erased,
            self.waiting,
        ];
        states.iter().sum::<u64>() == self.accepted && self.recovered <= self.accepted
    }

    /// Adds the counts of another hour.
    pub fn add(&mut self, other: &Self) {
        let Self {
            accepted,
            delivered,
            dead,
            archived,
            discarded,
            erased,
            waiting,
            recovered,
        } = other;
        self.accepted += accepted;
        self.delivered += delivered;
        self.dead += dead;
        self.archived += archived;
        self.discarded += discarded;
        self.erased += erased;
        self.waiting += waiting;
        self.recovered += recovered;
    }
}

/// The book of a span of time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Book {
    /// The beginning of the span.
    from: Timestamp,
    /// Its end, excluded.
    to: Timestamp,
    /// The hours with events, by their beginning.
    hours: BTreeMap<Timestamp, Hour>,
    /// Events of Open Messaging.
    #[serde(default)]
    open_messaging: u64,
    /// Records that cannot be read, of whatever time.
    unreadable: u64,
    /// Keys of the first of them.
    unreadable_keys: Vec<String>,
}

impl Book {
    /// An empty book of a span.
    pub fn of(span: Range<Timestamp>) -> Self {
        Self {
            from: span.start,
            to: span.end,
            hours: BTreeMap::new(),
            open_messaging: 0,
            unreadable: 0,
            unreadable_keys: Vec::new(),
        }
    }

    /// Counts an event, if the relay received it in the span and it is no check event.
    pub fn add(&mut self, record: &EventRecord) {
        let is_of_span = (self.from..self.to).contains(&record.received_at);
        if !is_of_span || record.source == Source::Check {
            return;
        }
        self.open_messaging += u64::from(record.source == Source::OpenMessaging);
        let hour = self.hours.entry(hour_of(record.received_at)).or_default();
        hour.accepted += 1;
        let is_recovery = |action: &str| action == "recover";
        hour.recovered += u64::from(record.history.iter().any(|act| is_recovery(&act.action)));
        // The target accepted it before, whatever becomes of the resend.
        if record.resend.is_some() {
            hour.delivered += 1;
            return;
        }
        let count = match record.state.name() {
            StateName::Delivered => &mut hour.delivered,
            StateName::Dead => &mut hour.dead,
            StateName::Archived => &mut hour.archived,
            StateName::Discarded => &mut hour.discarded,
            StateName::Erased => &mut hour.erased,
            StateName::Queued | StateName::InProgress | StateName::Retrying => &mut hour.waiting,
        };
        *count += 1;
    }

    /// Counts a record that cannot be read.
    pub fn add_unreadable(&mut self, key: String) {
        self.unreadable += 1;
        if self.unreadable_keys.len() < MOST_NAMED {
            self.unreadable_keys.push(key);
        }
    }

    /// The hours with events, by their beginning.
    pub fn hours(&self) -> &BTreeMap<Timestamp, Hour> {
        &self.hours
    }

    /// The number of events of Open Messaging.
    pub fn open_messaging(&self) -> u64 {
        self.open_messaging
    }

    /// The sum of all hours.
    pub fn total(&self) -> Hour {
        let mut total = Hour::default();
        self.hours.values().for_each(|hour| total.add(hour));
        total
    }

    /// The number of records that cannot be read, and the keys of the first of them.
    pub fn unreadable(&self) -> (u64, &[String]) {
        (self.unreadable, &self.unreadable_keys)
    }

    /// Returns whether every record could be read, and every hour balances.
    pub fn balances(&self) -> bool {
        self.unreadable == 0 && self.hours.values().all(Hour::balances)
    }
}

/// The beginning of the hour of a time.
pub fn hour_of(time: Timestamp) -> Timestamp {
    let hour = time.as_second().div_euclid(HOUR) * HOUR;
    // Only the first hour of all times begins before the earliest one.
    Timestamp::from_second(hour).unwrap_or(Timestamp::MIN)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::domain::event_record::{OperatorAction, Transition};

    fn at(text: &str) -> Timestamp {
        text.parse().expect("a time")
    }

    fn erased(id: &str, received_at: Timestamp) -> EventRecord {
        let act = OperatorAction {
            action: "recover".to_owned(),
            at: at("2026-01-16T02:00:00Z"),
            by: "a test".to_owned(),
            why: None,
        };
        let id = id.parse().expect("an id");
        let step = EventRecord::erased(&id, Source::Generic, received_at, None, act);
        step.as_ref()
            .map(Transition::next)
            .expect("not erased yet")
            .clone()
    }

    fn day() -> Book {
        Book::of(at("2026-01-15T00:00:00Z")..at("2026-01-16T00:00:00Z"))
    }

    /// A record of each state. The table's JSON is the only way to make one without its whole life.
    fn record(state: StateName, received_at: Timestamp) -> EventRecord {
        let mut json = serde_json::to_value(erased("an-event", received_at)).expect("JSON");
        let death = serde_json::json!({
            "reason": "permanent", "error": "404", "dead_at": received_at, "archived_to": "a key",
            "lease_until": 1, "last": true, "next_attempt_at": 1, "state": state.as_str(), "history": [],
        });
        json.as_object_mut()
            .expect("an object")
            .extend(death.as_object().expect("an object").clone());
        serde_json::from_value(json).expect("a record")
    }

    const STATES: [StateName; 8] = [
        StateName::Queued,
        StateName::InProgress,
        StateName::Retrying,
        StateName::Delivered,
        StateName::Dead,
        StateName::Archived,
        StateName::Discarded,
        StateName::Erased,
    ];

    #[test]
    fn every_state_has_its_place_in_the_book() {
        let mut book = day();
        for state in STATES {
            book.add(&record(state, at("2026-01-15T07:59:59.999Z")));
        }
        let hour = Hour {
            accepted: 8,
            delivered: 1,
            dead: 1,
            archived: 1,
            discarded: 1,
            erased: 1,
            waiting: 3,
            recovered: 0,
        };
        assert_eq!(
            book.hours(),
            &BTreeMap::from([(at("2026-01-15T07:00:00Z"), hour)])
        );
        assert!(book.balances());
    }

    #[test]
    fn midnight_divides_two_days() {
        let mut book = day();
        for time in [
            "2026-01-14T23:59:59.999Z",
            "2026-01-15T00:00:00Z",
            "2026-01-15T23:59:59.999Z",
            "2026-01-16T00:00:00Z",
        ] {
            book.add(&erased("an-event", at(time)));
        }
        let hours: Vec<_> = book.hours().keys().map(ToString::to_string).collect();
        assert_eq!(hours, ["2026-01-15T00:00:00Z", "2026-01-15T23:00:00Z"]);
        assert_eq!(book.total().recovered, 2);
    }

    #[test]
    fn resent_event_counts_as_delivered_whatever_becomes_of_it() {
        let mut book = day();
        let dead = EventRecord {
            resend: Some("a run".to_owned()),
            ..record(StateName::Dead, at("2026-01-15T07:00:00Z"))
        };
        book.add(&dead);
        assert_eq!((book.total().delivered, book.total().dead), (1, 0));
    }

    #[test]
    fn check_events_are_in_no_book() {
        let mut book = day();
        let check = EventRecord {
            source: Source::Check,
            ..record(StateName::Delivered, at("2026-01-15T07:00:00Z"))
        };
        book.add(&check);
        assert_eq!(book, day());
    }

    #[test]
    fn unreadable_records_are_counted_and_named_and_do_not_balance() {
        let mut book = day();
        (0..150).for_each(|number| book.add_unreadable(number.to_string()));
        let (count, keys) = book.unreadable();
        assert_eq!((count, keys.len(), book.balances()), (150, 100, false));
    }

    #[test]
    fn a_book_survives_being_saved() {
        let mut book = day();
        book.add(&erased("an-event", at("2026-01-15T07:00:00Z")));
        book.add_unreadable("a key".to_owned());
        let saved = serde_json::to_string(&book).expect("JSON");
        assert_eq!(
            serde_json::from_str::<Book>(&saved).expect("the book"),
            book
        );
    }

    proptest! {
        #[test]
        fn a_book_balances_whatever_is_in_it(events in proptest::collection::vec((0..8_usize, -9_000_i64..95_400), 0..60)) {
            let begin = at("2026-01-15T00:00:00Z").as_second();
            let mut book = day();
            for (state, second) in &events {
                let time = Timestamp::from_second(begin + second).expect("in range");
                book.add(&record(STATES[*state], time));
            }
            let inside = events.iter().filter(|(_, second)| (0..86_400).contains(second)).count();
            prop_assert!(book.balances());
            prop_assert_eq!(book.total().accepted, inside as u64);
        }
    }
}
