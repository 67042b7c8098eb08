//! The queue that keeps the order of conversations, and the changes of `Order`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use genesys_relay::deliver::Order;
use genesys_relay::domain::queue_depth::QueueDepth;
use genesys_relay::ports::event_queues::EventQueues;
use genesys_relay::ports::queue::{Countable as _, ReceivedMessage};
use genesys_relay::testing::FakeQueue;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};

use super::{DEAD_LETTERS_KEPT, EVENTS_KEPT, World, remote};
use crate::faults::{Process, Service};
use crate::mapping::Mapping;
use crate::ports::Remote;
use crate::scenario::{OrderMode, Scenario};

/// `maxReceiveCount` of the ordered queue.
const FAR_NET: u32 = 1000;

/// Time with `draining` before `none`: the longest run that may still send to the ordered queue.
const DRAINED_FOR: Duration = Duration::from_mins(20);

/// Longest time beyond the patience for which a conversation waits for one event while nothing
/// fails: a message that was received before is hidden, and a lease ends.
const LONGEST_HOLD_UP: Duration = Duration::from_mins(15);

/// The ordered queue, and all that belongs to it.
pub(crate) struct Line {
    pub(crate) queue: FakeQueue,
    pub(crate) dead_letters: FakeQueue,
    pub(crate) mapping: Mapping,
    mode: watch::Sender<OrderMode>,
}

impl Line {
    pub(super) fn new(scenario: &Scenario) -> Self {
        let plan = scenario.order.as_ref();
        let dead_letters = FakeQueue::fifo().keeping_for(DEAD_LETTERS_KEPT);
        let queue = FakeQueue::fifo()
            .keeping_for(EVENTS_KEPT)
            .redriving_to(&dead_letters, FAR_NET)
            .received_before(plan.map_or(0, |plan| plan.receives_before));
        if scenario.disorder {
            queue.disorder(scenario.seed ^ 0xf1f0);
            dead_letters.disorder(scenario.seed ^ 0xf1fd);
        }
        Self {
            queue,
            dead_letters,
            mapping: Mapping::new(scenario.concurrency),
            mode: watch::Sender::default(),
        }
    }

    pub(crate) fn mode(&self) -> OrderMode {
        *self.mode.borrow()
    }

    /// Waits until the stack has an ordered queue.
    pub(super) async fn until_on(&self) {
        // The sender is kept by `self`.
        drop(self.mode.subscribe().wait_for(|mode| mode.is_on()).await);
    }

    /// Number of messages in both queues.
    pub(crate) async fn left(&self) -> u64 {
        let mut left = 0;
        for queue in [&self.queue, &self.dead_letters] {
            // The queue is in memory and has no faults here.
            left += queue.depth().await.map_or(0, QueueDepth::total);
        }
        left
    }
}

impl World {
    /// The queues that a function sends events to.
    pub(super) fn event_queues(&self, process: &Process) -> EventQueues<Remote<FakeQueue>> {
        let is_ordered = self.line.mode() == OrderMode::Conversation;
        EventQueues {
            standard: remote(process, &self.events, Service::Events),
            ordered: is_ordered.then(|| self.ordered_queue(process)),
        }
    }

    fn ordered_queue(&self, process: &Process) -> Remote<FakeQueue> {
        remote(process, &self.line.queue, Service::Ordered)
    }

    /// The ordered queue of a function that also empties it, while the stack has one.
    pub(super) fn ordered_source(&self, process: &Process) -> Option<Remote<FakeQueue>> {
        let is_on = self.line.mode().is_on();
        is_on.then(|| self.ordered_queue(process))
    }

    /// The order that a processor keeps.
    pub(super) fn order(&self) -> Option<Order> {
        let plan = self.scenario.order.as_ref()?;
        self.line.mode().is_on().then(|| Order {
            patience: plan.patience,
            request_time: self.scenario.request_time(),
        })
    }

    /// Counts the conversations of a batch.
    pub(super) fn count_conversations(&self, batch: &[ReceivedMessage]) {
        let ordered = batch.iter().filter(|received| received.is_ordered);
        let groups: BTreeSet<_> = ordered.map(|received| &received.message.group).collect();
        for _ in &groups {
            self.faults.count("conversations of batches");
        }
        if groups.len() > 1 {
            self.faults.count("batches with several conversations");
        }
    }

    /// Changes `Order` as planned, until the faults end.
    pub(crate) async fn change_order(self: Arc<Self>) {
        let Some(plan) = &self.scenario.order else {
            return;
        };
        let (began, mut since) = (Instant::now(), Instant::now());
        for (at, mode) in &plan.modes {
            sleep_until(began + *at).await;
            while *mode == OrderMode::None
                && self.line.mode().is_on()
                && (since.elapsed() < DRAINED_FOR || self.line.left().await > 0)
            {
                if self.faults.have_ended() {
                    return;
                }
                sleep(Duration::from_mins(1)).await;
            }
            if self.faults.have_ended() {
                return;
            }
            if !self.line.mode().is_on() {
                // The stack has a new one.
                self.line.mapping.reset(self.scenario.concurrency);
            }
            since = Instant::now();
            self.invariants.note(|| format!("Order is {mode:?}"));
            self.line.mode.send_replace(*mode);
            self.faults.count("changes of order");
        }
    }

    /// Checks, once the faults have ended, that no conversation waits for one of its events for
    /// much longer than the patience. An open breaker and bad credentials hold all events back.
    pub(crate) async fn watch_line(self: Arc<Self>) {
        let Some(plan) = &self.scenario.order else {
            return;
        };
        if self.scenario.breaker_every.is_some() || self.scenario.credentials.is_some() {
            return;
        }
        let longest = plan.patience + LONGEST_HOLD_UP;
        let mut heads = BTreeMap::new();
        loop {
            sleep(Duration::from_mins(1)).await;
            let now = Instant::now();
            let mut current = BTreeMap::new();
            let parts = self
                .line
                .queue
                .held(|message, sent_at| (message.group.clone(), self.id_of(message, sent_at)));
            for (group, id) in parts {
                current.entry(group).or_insert(id);
            }
            heads.retain(|group, (id, _)| current.get(group) == Some(id));
            for (group, id) in current {
                heads.entry(group).or_insert((id, now));
            }
            if let Some((group, (id, _))) =
                heads.iter().find(|(_, (_, since))| now - *since > longest)
            {
                return self.invariants.violate(&format!(
                    "the conversation {group:?} waits for {id} for more than {longest:?}"
                ));
            }
        }
    }
}
