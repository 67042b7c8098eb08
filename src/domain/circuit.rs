//! The breaker's state machine: the next state from the attempts of the last minutes. It does no
//! I/O.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use crate::domain::attempts::{Attempts, minute_of};
use crate::domain::queue_depth::QueueDepth;
use crate::domain::request::Requester;
use crate::domain::text::excerpt;

/// The minutes of attempts that a run reads, the current one included.
pub(crate) const MINUTES: u8 = 3;

/// Fewer events whose first attempt failed are events that the target refuses, not an outage.
const MIN_FAILING_EVENTS: usize = 5;

/// While the breaker is closed, a current minute shorter than this is not judged by itself.
const SHORTEST_MINUTE: SignedDuration = SignedDuration::from_secs(15);

/// The least time between two steps: a minute, less the delay of its schedule. Runs that Lambda
/// delayed come together.
const STEP: SignedDuration = SignedDuration::from_secs(45);

/// The least concurrency that Lambda accepts ("Configuring scaling behavior for SQS event source
/// mappings").
pub(crate) const SMALLEST_CONCURRENCY: u32 = 2;

/// After an outage of this length events may become dead letters, which are kept for longer than
/// the events queue keeps them, and are shown with their reason.
const LONGEST_OPEN: SignedDuration = SignedDuration::from_hours(3 * 24);

/// After this long closed the last outage is forgotten: an event has used up its attempts by then.
const LONGEST_MEMORY: SignedDuration = SignedDuration::from_hours(1);

/// Visible events that are not attempted for this long have no processor.
const LONGEST_WAIT: SignedDuration = SignedDuration::from_mins(3);

/// The same for events in flight: longer than the longest backoff with the default parameters.
const LONGEST_WAIT_IN_FLIGHT: SignedDuration = SignedDuration::from_mins(20);

/// The breaker runs every minute. After this long without a complete run it counts as stopped.
const LONGEST_SILENCE: SignedDuration = SignedDuration::from_mins(10);

/// Allowance for the end of an invocation: Lambda may take ten seconds to start its process, which
/// do not count for the timeout, a call takes up to six, and clocks differ.
const MARGIN: SignedDuration = SignedDuration::from_secs(25);

/// The thresholds of the breaker.
#[derive(Debug, Clone, Copy)]
pub struct Policy {
    /// The percentage of first attempts that must fail for it to open.
    pub failure_percent: u8,
    /// Upper bound on concurrent invocations of the processor while it is closed.
    pub maximum_concurrency: u32,
    /// The processor's timeout, where its requests have a bound on their rate: then a probe runs
    /// beside no other invocation.
    pub processor_timeout: Option<Duration>,
}

impl Policy {
    /// The time by which each invocation of the processor that has begun by now has ended, where that
    /// matters.
    pub(crate) fn ended_at(&self, now: Timestamp) -> Option<Timestamp> {
        self.processor_timeout.map(|timeout| now + timeout + MARGIN)
    }
}

/// The state of the breaker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Events flow without a limit of the breaker.
    Closed,
    /// Events are held back, but for a probe every minute.
    Open,
    /// Events flow, more with each minute.
    Closing {
        /// Upper bound on concurrent invocations of the processor.
        concurrency: u32,
    },
    /// Events flow, most likely to the dead letters: they were held back for too long.
    Exhausting,
    /// There is no breaker, and the mapping belongs to the stack's owner.
    Off,
}

/// The breaker, as the table holds it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Circuit {
    pub state: State,
    /// The time of the last change of state.
    pub since: Timestamp,
    /// The reason for the state.
    pub why: String,
    /// The operator who set it; `None` where the breaker decided.
    pub by: Option<String>,
    /// True if the state stays until an operator changes it.
    pub forced: bool,
    /// Probes since it opened.
    pub probes: u32,
    pub last_probe: Option<LastProbe>,
    /// The time of the last probe that the processor answered, also with no event to attempt.
    #[serde(default)]
    pub looked_at: Option<Timestamp>,
    /// The beginning of the outage; a short recovery does not end it.
    #[serde(default)]
    pub away_since: Option<Timestamp>,
    /// The time of the last probe or increase of concurrency.
    #[serde(default)]
    pub stepped_at: Option<Timestamp>,
    /// The last minute in which the target accepted an event, or the time of an accepted probe.
    #[serde(default)]
    pub delivered_at: Option<Timestamp>,
    /// The time since which events wait although the mapping is enabled.
    #[serde(default)]
    pub waiting_since: Option<Timestamp>,
    /// The time by which the last invocation of the processor has ended, where the mapping is disabled
    /// and the rate of requests has a bound.
    #[serde(default)]
    pub quiet_at: Option<Timestamp>,
    /// The time of the last complete run. A breaker without a recent one has stopped.
    pub last_run_at: Timestamp,
}

/// A probe of the target with one event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastProbe {
    /// The time of the probe.
    pub at: Timestamp,
    /// The event, if known.
    pub event_id: Option<String>,
    /// True if the target accepted it.
    pub delivered: bool,
    pub error: Option<String>,
}

/// The outcome of a probe.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(
    tag = "outcome",
    rename_all = "camelCase",
    rename_all_fields = "camelCase"
)]
pub enum Probed {
    /// The target accepted the event.
    Delivered { event_id: String },
    /// The target did not accept the event.
    Failed { event_id: String, error: String },
    /// No event was due.
    Nothing,
}

/// Settings of the event source mapping.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// True if it hands out events.
    pub enabled: bool,
    /// Upper bound on concurrent invocations.
    pub maximum_concurrency: u32,
}

/// A state that an operator sets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Override {
    /// Open until an operator changes it.
    Open,
    /// Closed until an operator changes it.
    Closed,
    /// The breaker decides.
    Automatic,
}

impl Circuit {
    /// The initial state.
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
            quiet_at: None,
            last_run_at: now,
        }
    }

    /// The state without a breaker.
    pub(crate) fn off(&self, now: Timestamp) -> Self {
        self.turn(State::Off, "the breaker is off".to_owned(), now)
    }

    /// Changes the state.
    fn turn(&self, state: State, why: String, now: Timestamp) -> Self {
        let probes = if state == State::Open { 0 } else { self.probes };
        let away_since = match state {
            // The target may be back only for a moment.
            State::Closed => self.away_since,
            State::Off => None,
            State::Open | State::Closing { .. } | State::Exhausting => {
                self.away_since.or(Some(now))
            }
        };
        Self {
            state,
            since: now,
            why,
            by: None,
            forced: false,
            probes,
            away_since,
            ..self.clone()
        }
    }

    /// Derives the next state from the attempts of the last minutes, the newest first, each with
    /// its beginning, and from the settings of the event source mapping, if known.
    #[must_use]
    pub fn after(
        &self,
        minutes: &[(Timestamp, Attempts)],
        mapping: Option<Settings>,
        policy: Policy,
        now: Timestamp,
    ) -> Self {
        if self.state == State::Open && self.is_open_too_long(now) {
            let why =
                "events were held back for three days; waiting events may become dead letters"
                    .to_owned();
            return self.turn(State::Exhausting, why, now);
        }
        if self.forced {
            return self.clone();
        }
        let delivered: u64 = self
            .since_change(minutes)
            .map(|(_, attempts)| attempts.delivered)
            .sum();
        let failed: u64 = self
            .since_change(minutes)
            .map(|(_, attempts)| attempts.failed)
            .sum();
        let bad_minutes = self
            .since_change(minutes)
            .filter(|(_, attempts)| attempts.failed > 0)
            .count();
        let outage = self.outage(minutes, policy, now);
        match (self.state, outage) {
            (State::Closed, Some(outage)) if bad_minutes > 1 => self.turn(State::Open, outage, now),
            (State::Closed, _) if now.duration_since(self.since) >= LONGEST_MEMORY => Self {
                away_since: None,
                ..self.clone()
            },
            (State::Closing { .. }, Some(outage)) => self.turn(State::Open, outage, now),
            (State::Closing { concurrency }, None) if self.is_due(mapping, policy, now) => {
                self.widen(concurrency.saturating_mul(2), policy, now)
            }
            (State::Exhausting, _) if delivered > failed => self.turn(
                State::Closing {
                    concurrency: SMALLEST_CONCURRENCY,
                },
                "the target is back".to_owned(),
                now,
            ),
            (State::Off, _) => self.turn(State::Closed, "the breaker is on".to_owned(), now),
            (State::Closed | State::Closing { .. } | State::Open | State::Exhausting, _) => {
                self.clone()
            }
        }
    }

    /// The minutes after the change of state. Attempts of that minute itself may be from before or
    /// after it.
    fn since_change<'a>(
        &self,
        minutes: &'a [(Timestamp, Attempts)],
    ) -> impl Iterator<Item = &'a (Timestamp, Attempts)> {
        let turned = minute_of(self.since);
        minutes.iter().filter(move |(minute, _)| *minute > turned)
    }

    /// Describes the outage, if there is one: nearly all first attempts failed. The newest minutes
    /// are added one by one, so that a good minute before does not hide it.
    ///
    /// Later attempts do not count: an event that the target cannot process fails every time.
    fn outage(
        &self,
        minutes: &[(Timestamp, Attempts)],
        policy: Policy,
        now: Timestamp,
    ) -> Option<String> {
        let mut sum = Attempts::default();
        for ((minute, attempts), count) in self.since_change(minutes).zip(1..) {
            sum.add(attempts);
            let is_long_enough =
                self.state != State::Closed || now.duration_since(*minute) >= SHORTEST_MINUTE;
            let is_enough = is_long_enough && sum.failing_events() >= MIN_FAILING_EVENTS;
            if is_enough && sum.failure_percent() >= u64::from(policy.failure_percent) {
                let (failed, firsts) = (sum.first_failed, sum.firsts());
                let cause = if sum.credentials_failed * 2 > sum.failed {
                    ", most for the relay's credentials"
                } else {
                    ""
                };
                return Some(format!(
                    "{failed} of {firsts} first attempts failed within {count} minutes{cause}"
                ));
            }
        }
        None
    }

    /// Returns whether the next step is due: the last one has taken effect, and is long enough ago.
    pub(crate) fn is_due(&self, mapping: Option<Settings>, policy: Policy, now: Timestamp) -> bool {
        let stepped_at = self.stepped_at.map_or(self.since, |at| at.max(self.since));
        mapping == Some(self.settings(policy)) && now.duration_since(stepped_at) >= STEP
    }

    /// Updates the time by which the last invocation has ended. By now the mapping was seen, disabled
    /// or not.
    #[must_use]
    pub(crate) fn with_mapping(&self, is_disabled: bool, policy: Policy, now: Timestamp) -> Self {
        let ended_at = policy.ended_at(now).filter(|_| is_disabled);
        Self {
            quiet_at: ended_at.map(|ended_at| self.quiet_at.unwrap_or(ended_at)),
            ..self.clone()
        }
    }

    /// Returns whether no invocation of the processor runs any more, where that matters: neither of
    /// the mapping nor a probe without an answer. Only then may another begin.
    pub(crate) fn is_quiet(&self, now: Timestamp) -> bool {
        self.quiet_at.is_none_or(|at| at <= now)
    }

    /// Updates the time of the last delivery from the last minutes, the newest first.
    #[must_use]
    pub(crate) fn with_deliveries(&self, minutes: &[(Timestamp, Attempts)]) -> Self {
        let delivered = minutes
            .iter()
            .find(|(_, attempts)| attempts.delivered > 0)
            .map(|(minute, _)| *minute);
        Self {
            delivered_at: self.delivered_at.max(delivered),
            ..self.clone()
        }
    }

    /// Updates the time since which events wait unattempted, from the depth of the queue.
    #[must_use]
    pub(crate) fn with_waiting(
        &self,
        minutes: &[(Timestamp, Attempts)],
        mapping: Option<Settings>,
        depth: QueueDepth,
        now: Timestamp,
    ) -> Self {
        let attempted = minutes
            .iter()
            .find(|(_, attempts)| attempts.total() > 0)
            .map(|(minute, _)| *minute);
        let waiting_since = match mapping {
            None => self.waiting_since,
            Some(Settings { enabled: true, .. }) if depth.visible + depth.in_flight > 0 => {
                let is_later =
                    |since: &Timestamp| attempted.is_none_or(|minute| minute < minute_of(*since));
                self.waiting_since.filter(is_later).or(Some(now))
            }
            Some(_) => None,
        };
        Self {
            waiting_since,
            ..self.clone()
        }
    }

    /// The time since which events wait and the processor attempts none; `None` if it attempts
    /// some, or not for long.
    pub(crate) fn silent_since(&self, depth: QueueDepth, now: Timestamp) -> Option<Timestamp> {
        let longest = if depth.visible > 0 {
            LONGEST_WAIT
        } else {
            LONGEST_WAIT_IN_FLIGHT
        };
        self.waiting_since
            .filter(|since| now.duration_since(*since) >= longest)
    }

    /// Returns whether the outage is too long. Short recoveries do not end it; an override begins a
    /// new period.
    fn is_open_too_long(&self, now: Timestamp) -> bool {
        let since = if self.forced {
            self.since
        } else {
            self.away_since.unwrap_or(self.since)
        };
        now.duration_since(since) >= LONGEST_OPEN
    }

    fn widen(&self, concurrency: u32, policy: Policy, now: Timestamp) -> Self {
        if concurrency >= policy.maximum_concurrency {
            return self.turn(State::Closed, "the target is back".to_owned(), now);
        }
        Self {
            state: State::Closing { concurrency },
            stepped_at: Some(now),
            ..self.clone()
        }
    }

    /// Returns whether the breaker probes the target.
    pub fn should_probe(&self) -> bool {
        self.state == State::Open && !self.forced
    }

    /// Derives the next state from the outcome of a probe, or from the error that prevented it.
    #[must_use]
    pub fn probed(&self, outcome: Result<Probed, String>, now: Timestamp) -> Self {
        // Without an answer it may still run.
        let (looked_at, quiet_at) = if outcome.is_ok() {
            (Some(now), self.quiet_at.map(|at| at.min(now)))
        } else {
            (self.looked_at, self.quiet_at)
        };
        let stepped_at = Some(now);
        let (event_id, error) = match outcome {
            Ok(Probed::Nothing) => {
                return Self {
                    looked_at,
                    stepped_at,
                    quiet_at,
                    ..self.clone()
                };
            }
            Ok(Probed::Delivered { event_id }) => (Some(event_id), None),
            Ok(Probed::Failed { event_id, error }) => (Some(event_id), Some(excerpt(&error))),
            Err(error) => (None, Some(excerpt(&error))),
        };
        let probe = LastProbe {
            at: now,
            event_id,
            delivered: error.is_none(),
            error,
        };
        let mut next = Self {
            probes: self.probes.saturating_add(1),
            looked_at,
            stepped_at,
            quiet_at,
            ..self.clone()
        };
        if probe.delivered {
            let state = State::Closing {
                concurrency: SMALLEST_CONCURRENCY,
            };
            next.delivered_at = Some(now);
            next = next.turn(state, "the target accepted an event".to_owned(), now);
        }
        next.last_probe = Some(probe);
        next
    }

    /// Returns whether the breaker has stopped and must not hold events back. An operator's
    /// override stays for as long as the breaker would have kept it.
    pub fn is_abandoned(&self, now: Timestamp) -> bool {
        let is_silent = now.duration_since(self.last_run_at) >= LONGEST_SILENCE;
        let is_by_hand = self.state == State::Open && self.forced && !self.is_open_too_long(now);
        self.state != State::Off && is_silent && !is_by_hand && self.is_quiet(now)
    }

    /// The state after an operator's override.
    #[must_use]
    pub fn overridden(
        &self,
        state: Override,
        requester: &Requester,
        policy: Policy,
        now: Timestamp,
    ) -> Self {
        let why = requester
            .why
            .clone()
            .unwrap_or_else(|| "as asked".to_owned());
        let (state, forced) = match (state, self.state) {
            (Override::Open, _) => (State::Open, true),
            (Override::Closed, _) => (State::Closed, true),
            // After a manual hold the flow starts small: many events may be waiting.
            (Override::Automatic, State::Open) if self.forced => (
                State::Closing {
                    concurrency: SMALLEST_CONCURRENCY.min(policy.maximum_concurrency),
                },
                false,
            ),
            (Override::Automatic, State::Off) => (State::Closed, false),
            (Override::Automatic, _) => {
                return Self {
                    why,
                    by: Some(requester.by.clone()),
                    forced: false,
                    ..self.clone()
                };
            }
        };
        Self {
            by: Some(requester.by.clone()),
            forced,
            ..self.turn(state, why, now)
        }
    }

    /// The settings of the event source mapping in this state.
    pub fn settings(&self, policy: Policy) -> Settings {
        let maximum_concurrency = match self.state {
            // Waiting events have seven days to use up their receives.
            State::Closed | State::Exhausting | State::Off => policy.maximum_concurrency,
            State::Closing { concurrency } => concurrency.min(policy.maximum_concurrency),
            State::Open => SMALLEST_CONCURRENCY,
        };
        Settings {
            enabled: self.state != State::Open,
            maximum_concurrency,
        }
    }
}
