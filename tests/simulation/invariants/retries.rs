//! Invariants of retries: when they come, and why they end.

use std::time::Duration;

use genesys_relay::domain::event::EventId;
use genesys_relay::domain::event_record::{Death, EventRecord, State};
use genesys_relay::domain::failure::ReasonKind;
use genesys_relay::ports::clock::Clock as _;
use genesys_relay::testing::FakeClock;
use jiff::{SignedDuration, Timestamp};

use super::{Invariants, TOLERANCE};
use crate::lock;

/// Longest delay by a `Retry-After`.
const RETRY_AFTER_CEILING: Duration = Duration::from_hours(1);

/// Age of an event from which failures of the relay's credentials count.
const UNCOUNTED: SignedDuration = SignedDuration::from_hours(3 * 24);

impl Invariants {
    /// Checks the wait before the next attempt, and that no attempt counts that should not.
    pub(super) fn check_retry(
        &self,
        by: &str,
        before: Option<&EventRecord>,
        after: &EventRecord,
        next_attempt_at: Timestamp,
    ) {
        let id = &after.event_id;
        let refused = lock(&self.seen).uncounted.get(id).copied();
        let is_uncounted = refused.is_some();
        let may_count = refused == Some(true)
            || after.last_seen_at.duration_since(after.received_at) > UNCOUNTED;
        let attempts = if is_uncounted {
            after.attempts_made
        } else {
            after.attempts_since_claim
        };
        // A failed probe that tells nothing about the event restarts its backoff; otherwise
        // it is an attempt like any other.
        let wait = Duration::try_from(next_attempt_at.duration_since(after.last_seen_at))
            .unwrap_or_default();
        let restarts = by == "probe" && wait + Duration::from_millis(2) < self.wait(attempts);
        // Without a request the record is as before the claim.
        let is_postponed = before.is_some_and(|before| before.attempts_made > after.attempts_made);
        if !(is_postponed || is_uncounted && may_count) {
            let attempts = if restarts { 1 } else { attempts };
            // A conversation has one event to probe with, whatever the target asks for.
            let is_waited_for = |record: &EventRecord| record.waiting.is_some();
            let may_ask =
                by != "probe" || !(is_waited_for(after) || before.is_some_and(is_waited_for));
            self.check_backoff(after, attempts, next_attempt_at, may_ask);
        }
        if is_uncounted
            && !may_count
            && before.is_some_and(|it| it.attempts_since_claim <= after.attempts_since_claim)
        {
            self.violate(&format!(
                "{id} has used up an attempt although the relay's credentials failed"
            ));
        }
    }

    /// Checks that the time of a failure is not that of an earlier failure of the event.
    pub(super) fn check_time_of_death(
        &self,
        before: Option<&EventRecord>,
        death: &Death,
        by: &str,
    ) {
        let Some(before) = before.filter(|_| by != "restore") else {
            return;
        };
        let alive_at = match &before.state {
            State::Queued | State::InProgress(_) | State::Retrying { .. } => before.last_seen_at,
            State::Dead(dead) if dead.death != *death => {
                dead.replayed_at.unwrap_or(before.last_seen_at)
            }
            State::Dead(_)
            | State::Delivered
            | State::Archived { .. }
            | State::Discarded(_)
            | State::Erased => {
                return;
            }
        };
        if death.dead_at + TOLERANCE < alive_at {
            self.violate(&format!(
                "{} failed for good at {} but was alive at {alive_at}",
                before.event_id, death.dead_at
            ));
        }
    }

    /// Checks the reason of a dead letter, where the relay could know it.
    pub(super) fn check_reason(&self, id: &EventId, death: &Death) {
        let (heard, is_disturbed, is_undeliverable, refused) = {
            let seen = lock(&self.seen);
            (
                seen.heard.get(id).copied(),
                seen.disturbed.contains(id),
                seen.undeliverable.contains(id),
                seen.uncounted.get(id).copied(),
            )
        };
        if death.reason == ReasonKind::Permanent && refused == Some(false) {
            self.violate(&format!(
                "{id} is dead although the target refused the relay's credentials only"
            ));
        }
        let is_final =
            |status: u16| (300..500).contains(&status) && ![408, 421, 425, 429].contains(&status);
        let is_conflict = |status: u16| [409, 423].contains(&status);
        let status = heard.and_then(|(status, _)| status);
        // A conflict over an accepted event is the target's work on an earlier attempt.
        let is_in_progress = status.is_some_and(is_conflict) && self.has_taken(id);
        let holds = match death.reason {
            ReasonKind::Permanent => {
                status == death.status_code && status.is_some_and(is_final) && !is_in_progress
            }
            ReasonKind::Exhausted => {
                let is_for_good = |status| is_final(status) && !is_conflict(status);
                heard.is_some()
                    && status == death.status_code
                    && (!status.is_some_and(is_for_good) || refused.is_some())
            }
            ReasonKind::Malformed => is_undeliverable,
            ReasonKind::Crashed | ReasonKind::Unknown => self.is_disorderly || is_disturbed,
            ReasonKind::Unreadable => false,
        };
        // Faults may have hidden the reason from the relay.
        if !holds && !is_disturbed {
            let reason = death.reason.as_str();
            self.violate(&format!(
                "{id} is a dead letter with reason {reason} {:?} but the target last answered {heard:?}",
                death.status_code
            ));
        }
    }

    /// The wait after this many attempts in a row, without jitter.
    fn wait(&self, attempts: u32) -> Duration {
        let doubled = 2_u32
            .checked_pow(attempts.saturating_sub(1))
            .and_then(|factor| self.base.checked_mul(factor));
        doubled.map_or(self.cap, |doubled| doubled.min(self.cap))
    }

    /// Checks the wait before the next attempt: min(cap, base · 2ⁿ⁻¹) plus jitter of at most 1 s or
    /// a tenth, or the `Retry-After`.
    fn check_backoff(
        &self,
        record: &EventRecord,
        attempts: u32,
        next_attempt_at: Timestamp,
        may_ask: bool,
    ) {
        let wait = next_attempt_at.duration_since(record.last_seen_at);
        let least = self.wait(attempts);
        let asked = lock(&self.seen)
            .heard
            .get(&record.event_id)
            .filter(|_| may_ask)
            .map_or(Duration::ZERO, |(_, asked)| *asked);
        let asked = asked.min(RETRY_AFTER_CEILING);
        let most = (least + (least / 10).max(Duration::from_secs(1))).max(asked);
        let least = least.max(asked);
        // The time in the table is in whole milliseconds.
        let slack = SignedDuration::from_millis(2);
        let (least, most) = (
            SignedDuration::try_from(least),
            SignedDuration::try_from(most),
        );
        let (Ok(least), Ok(most)) = (least, most) else {
            return;
        };
        if wait < least && self.is_end_of_patience(record, wait) {
            return;
        }
        lock(&self.seen)
            .not_before
            .insert(record.event_id.clone(), FakeClock.now() + least);
        if wait + slack < least || wait - slack > most {
            self.violate(&format!(
                "{} waits for {wait} instead of {least} to {most}",
                record.event_id
            ));
        }
    }
}
