//! Messages in a queue, one by one, on virtual time: what SQS, the mapping and the processor do to
//! them, and no more.
//!
//! It knows nothing of the model's formulas. Visible messages are taken in the order in which they
//! became visible.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::time::Duration;

use super::model::Settings;

/// Scenario of the simulation.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scenario {
    pub(super) settings: Settings,
    pub(super) events_per_second: f64,
    /// Share of attempts that fail.
    pub(super) failing: f64,
    /// Time of a full batch, and the reduction for each missing message.
    pub(super) batch_seconds: f64,
    pub(super) message_seconds: f64,
    /// Most messages in flight.
    pub(super) in_flight: usize,
    /// Time that is simulated, in seconds, and how much of its beginning the means leave out.
    pub(super) seconds: f64,
    pub(super) warm_up_seconds: f64,
}

/// Result of the simulation.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub(super) arrived: usize,
    pub(super) delivered: usize,
    pub(super) dead: usize,
    /// Batches that were begun.
    pub(super) begun: usize,
    /// Attempts that ended.
    pub(super) attempts: usize,
    /// Visible at the end, and in flight at the end.
    pub(super) visible: usize,
    pub(super) waiting: usize,
    /// Means over time after the warm-up.
    pub(super) mean_in_flight: f64,
    pub(super) mean_batches: f64,
    /// The most that were in flight at a time.
    pub(super) most_in_flight: usize,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Happening {
    Arrival,
    /// A batch ends; of each message, how often it had been received.
    BatchEnds(Vec<u32>),
    /// The backoff of a message ends.
    Visible(u32),
}

struct Queue {
    scenario: Scenario,
    rng: fastrand::Rng,
    now: Duration,
    agenda: BinaryHeap<Reverse<(Duration, usize, Happening)>>,
    happened: usize,
    /// Receive counts of the visible messages.
    visible: VecDeque<u32>,
    in_flight: usize,
    batches: usize,
    seen: Seen,
}

/// Runs the scenario.
pub(super) fn run(scenario: Scenario, seed: u64) -> Seen {
    let mut queue = Queue {
        scenario,
        rng: fastrand::Rng::with_seed(seed),
        now: Duration::ZERO,
        agenda: BinaryHeap::new(),
        happened: 0,
        visible: VecDeque::new(),
        in_flight: 0,
        batches: 0,
        seen: Seen::default(),
    };
    queue.plan(0.0, Happening::Arrival);
    while let Some(Reverse((at, _, happening))) = queue.agenda.pop() {
        if at.as_secs_f64() > scenario.seconds {
            break;
        }
        queue.pass(at);
        queue.happen(happening);
        queue.receive();
    }
    Seen {
        visible: queue.visible.len(),
        waiting: queue.in_flight,
        ..queue.seen
    }
}

impl Queue {
    fn plan(&mut self, seconds: f64, happening: Happening) {
        self.happened += 1;
        self.agenda.push(Reverse((
            self.now + Duration::from_secs_f64(seconds),
            self.happened,
            happening,
        )));
    }

    /// Adds up what has been so since the last happening.
    fn pass(&mut self, at: Duration) {
        let from = self.now.as_secs_f64().max(self.scenario.warm_up_seconds);
        let share = (at.as_secs_f64() - from).max(0.0)
            / (self.scenario.seconds - self.scenario.warm_up_seconds);
        self.seen.mean_in_flight += share * number(self.in_flight);
        self.seen.mean_batches += share * number(self.batches);
        self.now = at;
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Arrival => {
                self.seen.arrived += 1;
                self.visible.push_back(0);
                // Events of many senders come independently of each other.
                let pause = -(1.0 - self.rng.f64()).ln() / self.scenario.events_per_second;
                self.plan(pause, Happening::Arrival);
            }
            Happening::Visible(receives) => {
                self.in_flight -= 1;
                self.visible.push_back(receives);
            }
            Happening::BatchEnds(messages) => {
                self.batches -= 1;
                for receives in messages {
                    self.end(receives);
                }
            }
        }
    }

    fn end(&mut self, receives: u32) {
        self.seen.attempts += 1;
        if self.rng.f64() >= self.scenario.failing {
            self.in_flight -= 1;
            self.seen.delivered += 1;
        } else if receives >= self.scenario.settings.max_receives {
            self.in_flight -= 1;
            self.seen.dead += 1;
        } else {
            let backoff = self.scenario.settings.backoff;
            let jitter = self.rng.u32(0..=backoff.longest_jitter_seconds(receives));
            self.plan(
                f64::from(backoff.least_seconds(receives) + jitter),
                Happening::Visible(receives),
            );
        }
    }

    /// The mapping takes what it may.
    fn receive(&mut self) {
        let Settings {
            maximum_concurrency,
            batch_size,
            ..
        } = self.scenario.settings;
        while number(self.batches) < maximum_concurrency {
            let mut batch = Vec::new();
            while number(batch.len()) < batch_size && self.in_flight < self.scenario.in_flight {
                let Some(receives) = self.visible.pop_front() else {
                    break;
                };
                self.in_flight += 1;
                batch.push(receives + 1);
            }
            if batch.is_empty() {
                return;
            }
            self.seen.most_in_flight = self.seen.most_in_flight.max(self.in_flight);
            self.batches += 1;
            self.seen.begun += 1;
            let lacking = batch_size - number(batch.len());
            let takes = self.scenario.batch_seconds - lacking * self.scenario.message_seconds;
            self.plan(takes, Happening::BatchEnds(batch));
        }
    }
}

/// A count as a number.
pub(super) fn number(count: usize) -> f64 {
    u32::try_from(count).map_or(f64::INFINITY, f64::from)
}
