//! The state of the breaker, and how one minute follows from another. No clock, no network: a table to read.

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use crate::domain::attempts::{Attempts, minute_of};
use crate::domain::queue_depth::QueueDepth;
use crate::domain::request::Requester;
use crate::domain::text::excerpt;

/// The breaker looks at the minute that is, and at so many before it.
pub(crate) const MINUTES: u8 = 3;

/// Fewer events whose first attempt failed are events that the target does not like, not an outage.
const FEWEST_EVENTS: usize = 5;

/// While it is closed, less than this of the minute that is says nothing by itself.
const SHORTEST_LOOK: SignedDuration = SignedDuration::from_secs(15);

/// From one step to the next: a minute, less what its schedule can be late. Runs that Lambda had to put off come together.
const STEP: SignedDuration = SignedDuration::from_secs(45);

/// The least that Lambda takes ("Configuring scaling behavior for SQS event source mappings").
pub(crate) const SMALLEST_CONCURRENCY: u32 = 2;

/// After so long without the target, events are let go to the dead letters, where they are kept for longer than in the
/// events queue, and shown with their reason.
const LONGEST_OPEN: SignedDuration = SignedDuration::from_hours(3 * 24);

/// After so long closed, what it remembers of the last outage is over: an event has used up its attempts by then.
const LONGEST_MEMORY: SignedDuration = SignedDuration::from_hours(1);

/// Events that could be received for so long, and were not attempted, have nobody to attempt them.
const LONGEST_WAIT: SignedDuration = SignedDuration::from_mins(3);

/// The same of events that have been received: longer than the longest backoff with the default parameters.
const LONGEST_WAIT_IN_FLIGHT: SignedDuration = SignedDuration::from_mins(20);

/// A breaker looks every minute. One that has not for so long is broken.
const LONGEST_SILENCE: SignedDuration = SignedDuration::from_mins(10);

/// When the breaker opens, and how far it closes.
#[derive(Debug, Clone, Copy)]
pub struct Policy {
    /// How many of a hundred first attempts have to fail.
    pub failure_percent: u8,
    /// How many invocations of the processor there are at the same time while it is closed.
    pub maximum_concurrency: u32,
}

/// Whether events flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// As fast as they can.
    Closed,
    /// Not at all, but for one now and then that tells whether the target is back.
    Open,
    /// More with each minute.
    Closing {
        /// How many invocations of the processor at the same time.
        concurrency: u32,
    },
    /// As fast as they can, to the dead letters: they have been held back for too long.
    Exhausting,
    /// As fast as the mapping's owner wants: there is no breaker.
    Off,
}

/// The breaker, as the table holds it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Circuit {
    /// Whether events flow.
    pub state: State,
    /// Since when that is so.
    pub since: Timestamp,
    /// Why that is so.
    pub why: String,
    /// Who said so; `None` where the breaker did by itself.
    pub by: Option<String>,
    /// Whether it stays so until somebody says otherwise.
    pub forced: bool,
    /// How often an event was let through since it opened.
    pub probes: u32,
    /// What came of the last of them.
    pub last_probe: Option<LastProbe>,
    /// When it was last possible to see whether the target is back, also where no event was there to see it by.
    #[serde(default)]
    pub looked_at: Option<Timestamp>,
    /// Since when the target has not been there for good.
    #[serde(default)]
    pub away_since: Option<Timestamp>,
    /// When it last let an event through, or let more of them flow.
    #[serde(default)]
    pub stepped_at: Option<Timestamp>,
    /// The last minute in which the target took an event, or the time of the probe that it took.
    #[serde(default)]
    pub delivered_at: Option<Timestamp>,
    /// Since when events wait that nothing keeps from being attempted.
    #[serde(default)]
    pub waiting_since: Option<Timestamp>,
    /// When the breaker last looked and did what follows. One that does not any more is broken.
    pub last_run_at: Timestamp,
}

/// An event that was let through to see whether the target is back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastProbe {
    /// When.
    pub at: Timestamp,
    /// The event; `None` where not even that is known.
    pub event_id: Option<String>,
    /// Whether the target has it.
    pub delivered: bool,
    /// What went wrong.
    pub error: Option<String>,
}

/// What came of letting an event through.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Probed {
    /// The target has it.
    Delivered {
        /// The event.
        event_id: String,
    },
    /// The target does not have it.
    Failed {
        /// The event.
        event_id: String,
        /// What went wrong.
        error: String,
    },
    /// None was due.
    Nothing,
}

/// What the event source mapping is to be set to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// Whether it hands out events.
    pub enabled: bool,
    /// To how many invocations at the same time.
    pub maximum_concurrency: u32,
}

/// What somebody wants the breaker to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Override {
    /// Open until told otherwise.
    Open,
    /// Closed until told otherwise.
    Closed,
    /// What it finds right.
    Automatic,
}

impl Circuit {
    /// Closed, as it is where nobody has ever said otherwise.
    pub fn closed(now: Timestamp) -> Self {
        Self {
            state: State::Closed,
            since: now,
            why: "nothing is wrong".to_owned(),
            by: None,
            forced: false,
            probes: 0,
            last_probe: None,
            looked_at: None,
            away_since: None,
            stepped_at: None,
            delivered_at: None,
            waiting_since: None,
            last_run_at: now,
        }
    }

    /// Without a breaker, whatever it was.
    pub(crate) fn off(&self, now: Timestamp) -> Self {
        self.turn(State::Off, "the breaker is off".to_owned(), now)
    }

    /// Another state from now on.
    fn turn(&self, state: State, why: String, now: Timestamp) -> Self {
        let probes = if state == State::Open { 0 } else { self.probes };
        let away_since = match state {
            // It may be back for a moment only.
            State::Closed => self.away_since,
            State::Off => None,
            State::Open | State::Closing { .. } | State::Exhausting => self.away_since.or(Some(now)),
        };
        Self { state, since: now, why, by: None, forced: false, probes, away_since, ..self.clone() }
    }

    /// What follows from the attempts of the last minutes, the newest first, each with its beginning; and from what the event
    /// source mapping is set to, where that is known.
    #[must_use]
    pub fn after(
        &self,
        minutes: &[(Timestamp, Attempts)],
        mapping: Option<Settings>,
        policy: Policy,
        now: Timestamp,
    ) -> Self {
        if self.state == State::Open && self.is_open_too_long(now) {
            let why = "events have been held back for three days: what waits goes to the dead letters".to_owned();
            return self.turn(State::Exhausting, why, now);
        }
        if self.forced {
            return self.clone();
        }
        let delivered: u64 = self.since_it_turned(minutes).map(|(_, attempts)| attempts.delivered).sum();
        let failed: u64 = self.since_it_turned(minutes).map(|(_, attempts)| attempts.failed).sum();
        let bad_minutes = self.since_it_turned(minutes).filter(|(_, attempts)| attempts.failed > 0).count();
        let outage = self.outage(minutes, policy, now);
        match (self.state, outage) {
            (State::Closed, Some(outage)) if bad_minutes > 1 => self.turn(State::Open, outage, now),
            (State::Closed, _) if now.duration_since(self.since) >= LONGEST_MEMORY => {
                Self { away_since: None, ..self.clone() }
            }
            (State::Closing { .. }, Some(outage)) => self.turn(State::Open, outage, now),
            (State::Closing { concurrency }, None) if self.is_due(mapping, policy, now) => {
                self.wider(concurrency.saturating_mul(2), policy, now)
            }
            (State::Exhausting, _) if delivered > failed => {
                self.turn(State::Closing { concurrency: SMALLEST_CONCURRENCY }, "the target is back".to_owned(), now)
            }
            (State::Off, _) => self.turn(State::Closed, "the breaker is on".to_owned(), now),
            (State::Closed | State::Closing { .. } | State::Open | State::Exhausting, _) => self.clone(),
        }
    }

    /// Of the minute in which it turned, nobody knows on which side an attempt was.
    fn since_it_turned<'a>(
        &self,
        minutes: &'a [(Timestamp, Attempts)],
    ) -> impl Iterator<Item = &'a (Timestamp, Attempts)> {
        let turned = minute_of(self.since);
        minutes.iter().filter(move |(minute, _)| *minute > turned)
    }

    /// Why the target is away, if it is: of the events that were attempted for the first time, nearly all failed. As many
    /// minutes are looked at as it takes to see that, so that a good minute before does not hide it.
    ///
    /// Later attempts say nothing: what the target cannot digest fails again and again.
    fn outage(&self, minutes: &[(Timestamp, Attempts)], policy: Policy, now: Timestamp) -> Option<String> {
        let mut sum = Attempts::default();
        for ((minute, attempts), count) in self.since_it_turned(minutes).zip(1..) {
            sum.add(attempts);
            let is_long_enough = self.state != State::Closed || now.duration_since(*minute) >= SHORTEST_LOOK;
            let is_enough = is_long_enough && sum.failing_events() >= FEWEST_EVENTS;
            if is_enough && sum.failure_percent() >= u64::from(policy.failure_percent) {
                let (failed, firsts) = (sum.first_failed, sum.firsts());
                return Some(format!("{failed} of {firsts} first attempts failed within {count} minutes"));
            }
        }
        None
    }

    /// Whether the next step may be taken: the last one has taken effect, and is long enough ago.
    pub(crate) fn is_due(&self, mapping: Option<Settings>, policy: Policy, now: Timestamp) -> bool {
        let stepped_at = self.stepped_at.map_or(self.since, |at| at.max(self.since));
        mapping == Some(self.settings(policy)) && now.duration_since(stepped_at) >= STEP
    }

    /// When the target took an event, as far as the last minutes tell: the newest first.
    #[must_use]
    pub(crate) fn heard_of(&self, minutes: &[(Timestamp, Attempts)]) -> Self {
        let delivered = minutes.iter().find(|(_, attempts)| attempts.delivered > 0).map(|(minute, _)| *minute);
        Self { delivered_at: self.delivered_at.max(delivered), ..self.clone() }
    }

    /// Since when events wait that nothing keeps from being attempted, by what the queue holds.
    #[must_use]
    pub(crate) fn waited(
        &self,
        minutes: &[(Timestamp, Attempts)],
        mapping: Option<Settings>,
        depth: QueueDepth,
        now: Timestamp,
    ) -> Self {
        let attempted = minutes.iter().find(|(_, attempts)| attempts.total() > 0).map(|(minute, _)| *minute);
        let waiting_since = match mapping {
            None => self.waiting_since,
            Some(Settings { enabled: true, .. }) if depth.visible + depth.in_flight > 0 => {
                let is_later = |since: &Timestamp| attempted.is_none_or(|minute| minute < minute_of(*since));
                self.waiting_since.filter(is_later).or(Some(now))
            }
            Some(_) => None,
        };
        Self { waiting_since, ..self.clone() }
    }

    /// Since when events wait, nothing keeps them, and nobody attempts them; `None` where that is not so, or not for long.
    pub(crate) fn is_silent_since(&self, depth: QueueDepth, now: Timestamp) -> Option<Timestamp> {
        let longest = if depth.visible > 0 { LONGEST_WAIT } else { LONGEST_WAIT_IN_FLIGHT };
        self.waiting_since.filter(|since| now.duration_since(*since) >= longest)
    }

    /// A target that comes back for a moment now and then does not hold events back for ever. A person's word holds anew.
    fn is_open_too_long(&self, now: Timestamp) -> bool {
        let since = if self.forced { self.since } else { self.away_since.unwrap_or(self.since) };
        now.duration_since(since) >= LONGEST_OPEN
    }

    fn wider(&self, concurrency: u32, policy: Policy, now: Timestamp) -> Self {
        if concurrency >= policy.maximum_concurrency {
            return self.turn(State::Closed, "the target is back".to_owned(), now);
        }
        Self { state: State::Closing { concurrency }, stepped_at: Some(now), ..self.clone() }
    }

    /// Whether an event is to be let through now.
    pub fn is_to_probe(&self) -> bool {
        self.state == State::Open && !self.forced
    }

    /// What follows from an event that was let through, or from that it could not be.
    #[must_use]
    pub fn probed(&self, outcome: Result<Probed, String>, now: Timestamp) -> Self {
        let (looked_at, stepped_at) = (if outcome.is_ok() { Some(now) } else { self.looked_at }, Some(now));
        let (event_id, error) = match outcome {
            Ok(Probed::Nothing) => return Self { looked_at, stepped_at, ..self.clone() },
            Ok(Probed::Delivered { event_id }) => (Some(event_id), None),
            Ok(Probed::Failed { event_id, error }) => (Some(event_id), Some(excerpt(&error))),
            Err(error) => (None, Some(excerpt(&error))),
        };
        let probe = LastProbe { at: now, event_id, delivered: error.is_none(), error };
        let mut next = Self { probes: self.probes.saturating_add(1), looked_at, stepped_at, ..self.clone() };
        if probe.delivered {
            let state = State::Closing { concurrency: SMALLEST_CONCURRENCY };
            next.delivered_at = Some(now);
            next = next.turn(state, "the target took an event".to_owned(), now);
        }
        next.last_probe = Some(probe);
        next
    }

    /// Whether it does not look any more, and may not hold events back. What is held by hand stays so for as long as the
    /// breaker would have let it.
    pub fn is_abandoned(&self, now: Timestamp) -> bool {
        let is_silent = now.duration_since(self.last_run_at) >= LONGEST_SILENCE;
        let is_by_hand = self.state == State::Open && self.forced && !self.is_open_too_long(now);
        self.state != State::Off && is_silent && !is_by_hand
    }

    /// What somebody wants.
    #[must_use]
    pub fn wished(&self, wish: Override, requester: &Requester, policy: Policy, now: Timestamp) -> Self {
        let why = requester.why.clone().unwrap_or_else(|| "as asked".to_owned());
        let (state, forced) = match (wish, self.state) {
            (Override::Open, _) => (State::Open, true),
            (Override::Closed, _) => (State::Closed, true),
            // What was held by hand begins anew: a crowd may be waiting.
            (Override::Automatic, State::Open) if self.forced => {
                (State::Closing { concurrency: SMALLEST_CONCURRENCY.min(policy.maximum_concurrency) }, false)
            }
            (Override::Automatic, State::Off) => (State::Closed, false),
            (Override::Automatic, _) => {
                return Self { why, by: Some(requester.by.clone()), forced: false, ..self.clone() };
            }
        };
        Self { by: Some(requester.by.clone()), forced, ..self.turn(state, why, now) }
    }

    /// What the event source mapping is to be set to.
    pub fn settings(&self, policy: Policy) -> Settings {
        let maximum_concurrency = match self.state {
            // What waits has seven days to use up its receives.
            State::Closed | State::Exhausting | State::Off => policy.maximum_concurrency,
            State::Closing { concurrency } => concurrency.min(policy.maximum_concurrency),
            State::Open => SMALLEST_CONCURRENCY,
        };
        Settings { enabled: self.state != State::Open, maximum_concurrency }
    }
}
