//! Check of the relay's guarantees.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use anyhow::{Context as _, Result, ensure};
use local::stack::{Function, Service};

use super::trouble::Troubles;
use super::{PROCESSOR_TIME, Sent};
use crate::ledger::{CRASHED, Kept, KeptAttempt, answered, attempt_of, ended};
use crate::relay::Relay;

/// Contents of the table, the dead-letter queue and the archive when no event is in flight.
pub(super) struct Ending {
    pub(super) records: BTreeMap<String, Kept>,
    pub(super) letters: BTreeSet<String>,
    pub(super) archived: BTreeSet<String>,
}

pub(super) struct Account<'a> {
    pub(super) relay: &'a Relay,
    pub(super) sent: &'a Sent,
    pub(super) troubles: &'a Troubles,
    pub(super) asked_to_discard: &'a BTreeSet<String>,
}

/// Errors in the records of attempts after which the target may have the event.
#[derive(Debug, Default)]
struct Unheard {
    /// A kill or a cut kept it from being recorded.
    crashed: usize,
    /// It was given up before the answer came.
    late: usize,
    /// It was one of those before the newest attempts, of which the record keeps no account.
    forgotten: usize,
}

impl Unheard {
    fn total(&self) -> usize {
        self.crashed + self.late + self.forgotten
    }
}

impl fmt::Display for Unheard {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            crashed,
            late,
            forgotten,
        } = self;
        write!(
            formatter,
            "answers unheard: {crashed} by a kill or a cut, {late} late, {forgotten} of before the newest attempts"
        )
    }
}

impl Account<'_> {
    /// Checks each event against the guarantees after the faults, and returns the figures.
    pub(super) fn settle(&self, ending: &Ending) -> Result<String> {
        let deliveries = self.relay.deliveries();
        let all: BTreeSet<_> = self.sent.accepted.union(&self.sent.refused).collect();
        let unknown: Vec<_> = ending
            .records
            .keys()
            .filter(|id| !all.contains(id))
            .collect();
        ensure!(unknown.is_empty(), "events that were not sent: {unknown:?}");
        let mut counts = BTreeMap::from([
            ("DELIVERED", 0),
            ("DEAD", 0),
            ("ARCHIVED", 0),
            ("DISCARDED", 0),
        ]);
        for id in all {
            let kept = ending
                .records
                .get(id)
                .with_context(|| format!("lost without a trace: {id}"))?;
            let has_arrived = deliveries.contains_key(id);
            let is_kept = match kept.state.as_str() {
                "DELIVERED" => has_arrived,
                // The target can have it although its last attempt could not be recorded: there is
                // no dead letter then.
                "DEAD" => kept.reason.is_some() && (ending.letters.contains(id) || has_arrived),
                "ARCHIVED" => ending.archived.contains(id),
                "DISCARDED" => self.asked_to_discard.contains(id),
                _ => false,
            };
            ensure!(is_kept, "not kept: {kept:?}");
            *counts.entry(kept.state.as_str()).or_default() += 1;
        }
        for id in &ending.letters {
            let state = ending.records.get(id).map(|kept| kept.state.as_str());
            ensure!(
                state == Some("DEAD"),
                "a dead letter of an event that is {state:?}: {id}"
            );
        }
        let (made, repeated) = self.repetitions();
        let unheard = self.unheard(ending)?;
        ensure!(
            repeated <= unheard.total(),
            "delivered {repeated} times too often, and not all of that can be explained ({unheard})"
        );
        let count = |state| counts.get(state).copied().unwrap_or_default();
        Ok(format!(
            "{} accepted, {} refused and recovered, {made} deliveries, {repeated} duplicates ({unheard}), {} delivered, {} dead, {} \
             archived, {} discarded",
            self.sent.accepted.len(),
            self.sent.refused.len(),
            count("DELIVERED"),
            count("DEAD"),
            count("ARCHIVED"),
            count("DISCARDED"),
        ))
    }

    /// Lost events, after all dead letters were replayed.
    pub(super) fn lost(&self, ending: &Ending) -> Vec<String> {
        let deliveries = self.relay.deliveries();
        let is_discarded = |id: &str| {
            ending
                .records
                .get(id)
                .is_some_and(|kept| kept.state == "DISCARDED")
        };
        let all = self.sent.accepted.union(&self.sent.refused);
        all.filter(|id| !deliveries.contains_key(*id) && !is_discarded(id))
            .cloned()
            .collect()
    }

    /// Number of 2xx answers of the target, and of those to events that it had accepted before.
    fn repetitions(&self) -> (usize, usize) {
        let deliveries = self.relay.deliveries();
        let made = deliveries.values().sum::<usize>();
        (made, made - deliveries.len())
    }

    /// Holds each attempt against what the target saw.
    fn unheard(&self, ending: &Ending) -> Result<Unheard> {
        let (answered, timed_out) = (answered(self.relay), ended(self.relay, "Task timed out")?);
        let mut latest: BTreeMap<String, usize> = BTreeMap::new();
        for request in self.relay.target.requests() {
            let made = attempt_of(&request);
            latest
                .entry(request.event_id)
                .and_modify(|latest| *latest = made.max(*latest))
                .or_insert(made);
        }
        let mut unheard = Unheard::default();
        for (id, kept) in &ending.records {
            ensure!(
                kept.deliveries() == usize::from(kept.state == "DELIVERED"),
                "not once: {kept:?}"
            );
            // Only the newest are remembered.
            let forgotten = kept.attempts_made.saturating_sub(kept.attempts.len());
            let early = answered
                .get(id)
                .map_or(0, |attempts| attempts.range(..=forgotten).count());
            unheard.forgotten += early;
            for (number, attempt) in (forgotten + 1..).zip(&kept.attempts) {
                let has_arrived = answered
                    .get(id)
                    .is_some_and(|attempts| attempts.contains(&number));
                if attempt.error.as_deref() == Some(CRASHED) {
                    unheard.crashed += usize::from(has_arrived);
                    let is_explained = timed_out > 0 || self.can_have_crashed(attempt);
                    ensure!(
                        is_explained,
                        "neither a kill nor a cut explains attempt {number} of {kept:?}"
                    );
                } else if attempt.status.is_none() {
                    unheard.late += usize::from(has_arrived);
                } else {
                    ensure!(
                        has_arrived == (attempt.status == Some(200)),
                        "attempt {number} of {kept:?}"
                    );
                }
            }
            let is_delivered = kept
                .attempts
                .iter()
                .position(|attempt| attempt.status == Some(200));
            let last = is_delivered.map(|position| forgotten + position + 1);
            let again = latest
                .get(id)
                .filter(|latest| last.is_some_and(|last| **latest > last));
            ensure!(
                again.is_none(),
                "attempt {again:?} came after the delivery was recorded: {kept:?}"
            );
        }
        Ok(unheard)
    }

    fn can_have_crashed(&self, attempt: &KeptAttempt) -> bool {
        let mut kills = self
            .troubles
            .kills
            .iter()
            .filter(|kill| kill.function == Function::Processor);
        let mut cuts = self
            .troubles
            .cuts
            .iter()
            .filter(|cut| cut.service == Service::DynamoDb);
        kills.any(|kill| kill.can_have_ended(attempt.at, PROCESSOR_TIME))
            || cuts.any(|cut| attempt.at <= cut.to && cut.from <= attempt.at + PROCESSOR_TIME)
    }
}
