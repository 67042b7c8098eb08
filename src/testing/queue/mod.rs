//! A queue in memory that does what the documentation of SQS says, and no more.

mod fifo;
mod ports;

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout_at};

use self::fifo::Fifo;
use super::{FakeClock, lock};
use crate::domain::message::Message;
use crate::ports::clock::Clock;
use crate::ports::queue::{MoveTask, ReceiptHandle, ReceivedMessage};
use crate::ports::service::{Service, ServiceError};

/// One in this many messages that an unordered queue hands out stays visible and is handed out once
/// more.
const HANDED_OUT_TWICE: u32 = 40;

/// A queue in memory, on tokio's clock.
///
/// It hides, returns, deletes, counts, expires, redrives and moves messages as SQS does. It keeps
/// their order unless it is [told otherwise](Self::disorder), and works unless it is made to fail.
/// A [FIFO queue](Self::fifo) keeps the order of each message group, whatever happens.
#[derive(Clone, Default)]
pub struct FakeQueue {
    state: Arc<Mutex<QueueState>>,
    changed: Arc<Notify>,
}

#[derive(Default)]
struct QueueState {
    entries: Vec<Entry>,
    sent: u64,
    removed: usize,
    receives: u64,
    received_before: u32,
    fifo: Option<Fifo>,
    retention: Option<SignedDuration>,
    redrive: Option<(FakeQueue, u32)>,
    disorder: Option<fastrand::Rng>,
    failures_left: usize,
    receives_refused: bool,
    late_count: Option<(u64, Instant)>,
    moves_refused: bool,
    send_delay: Duration,
    receive_delay: Duration,
    change_delay: Duration,
    visibility_changes: Vec<(ReceiptHandle, Duration)>,
    moves_to: Option<FakeQueue>,
    moves: Vec<MoveTask>,
}

#[derive(Clone)]
struct Entry {
    id: String,
    message: Message,
    sent_at: Timestamp,
    receipt: Option<ReceiptHandle>,
    receive_count: u32,
    visible_at: Instant,
    /// True if its deletion was confirmed, and it comes back all the same.
    is_deleted: bool,
}

fn unavailable() -> ServiceError {
    Service::Sqs.unavailable("the queue was made to fail")
}

impl FakeQueue {
    /// A FIFO queue (`FifoQueue`, with `DeduplicationScope: messageGroup`).
    #[must_use]
    pub fn fifo() -> Self {
        let queue = Self::default();
        lock(&queue.state).fifo = Some(Fifo::default());
        queue
    }

    /// Deletes messages that were sent longer ago than this (`MessageRetentionPeriod`).
    #[must_use]
    pub fn keeping_for(self, retention: SignedDuration) -> Self {
        lock(&self.state).retention = Some(retention);
        self
    }

    /// Moves a message that was received `max_receives` times to `dead_letters` instead of giving
    /// it once more (`RedrivePolicy`). It keeps its id and, on a standard queue, the time at which
    /// it was sent.
    #[must_use]
    pub fn redriving_to(self, dead_letters: &Self, max_receives: u32) -> Self {
        lock(&self.state).redrive = Some((dead_letters.clone(), max_receives));
        self
    }

    /// Begins with this receive count at each new message.
    #[must_use]
    pub fn received_before(self, receives: u32) -> Self {
        lock(&self.state).received_before = receives;
        self
    }

    /// A move task brings its messages to `destination`, as new messages. Without one, a task never
    /// ends.
    #[must_use]
    pub fn moving_to(self, destination: &Self) -> Self {
        lock(&self.state).moves_to = Some(destination.clone());
        self
    }

    /// Behaves as a standard queue may from now on ("Amazon SQS at-least-once delivery"): it hands
    /// messages out in any order, some of them twice, and some that were deleted come back.
    ///
    /// A FIFO queue then serves its groups in any order, and hands out the beginning of a group of
    /// which later messages are still hidden. The documentation leaves both open.
    pub fn disorder(&self, seed: u64) {
        lock(&self.state).disorder = Some(fastrand::Rng::with_seed(seed));
    }

    /// Keeps the order from now on, and hands out each message once.
    pub fn calm_down(&self) {
        lock(&self.state).disorder = None;
    }

    /// Makes every call fail from now on.
    pub fn fail(&self) {
        self.fail_times(usize::MAX);
    }

    /// The next `times` calls fail; each entry of a batch counts as one.
    pub fn fail_times(&self, times: usize) {
        lock(&self.state).failures_left = times;
    }

    /// Makes every receive fail from now on.
    pub fn refuse_receives(&self) {
        lock(&self.state).receives_refused = true;
    }

    /// Counts at least so many messages as in flight for a while, whatever is: counts of SQS are
    /// late.
    pub fn count_late(&self, in_flight: u64, by: Duration) {
        lock(&self.state).late_count = Some((in_flight, Instant::now() + by));
    }

    /// Refuses to start move tasks from now on.
    pub fn refuse_moves(&self) {
        lock(&self.state).moves_refused = true;
    }

    /// Delays the answer to every send from now on.
    pub fn delay_sends(&self, by: Duration) {
        lock(&self.state).send_delay = by;
    }

    /// Delays the answer to every receive from now on.
    pub fn delay_receives(&self, by: Duration) {
        lock(&self.state).receive_delay = by;
    }

    /// Delays the answer to every change of visibility from now on.
    pub fn delay_changes(&self, by: Duration) {
        lock(&self.state).change_delay = by;
    }

    /// Waits for as long as the delay of a call says.
    async fn wait(&self, delay: impl Fn(&QueueState) -> Duration) {
        let delay = delay(&lock(&self.state));
        if !delay.is_zero() {
            sleep(delay).await;
        }
    }

    /// The messages, hidden ones included.
    pub fn messages(&self) -> Vec<Message> {
        self.held(|message, _| message.clone())
    }

    /// Calls `look` with each message and the time at which it was sent.
    pub fn held<T>(&self, look: impl Fn(&Message, Timestamp) -> T) -> Vec<T> {
        let mut state = lock(&self.state);
        state.expire();
        state
            .entries
            .iter()
            .map(|entry| look(&entry.message, entry.sent_at))
            .collect()
    }

    /// Calls `look` with each message of which no deletion was confirmed.
    pub fn held_undeleted<T>(&self, look: impl Fn(&Message, Timestamp) -> T) -> Vec<T> {
        let mut state = lock(&self.state);
        state.expire();
        let entries = state.entries.iter().filter(|entry| !entry.is_deleted);
        entries
            .map(|entry| look(&entry.message, entry.sent_at))
            .collect()
    }

    /// Number of messages that have left the queue in any way.
    pub fn removed(&self) -> usize {
        let mut state = lock(&self.state);
        state.expire();
        state.removed
    }

    /// The time at which the message with this receipt becomes visible.
    pub fn visible_at(&self, receipt: &ReceiptHandle) -> Option<Instant> {
        lock(&self.state)
            .by_receipt(receipt)
            .map(|entry| entry.visible_at)
    }

    /// Every change of a visibility timeout so far.
    pub fn visibility_changes(&self) -> Vec<(ReceiptHandle, Duration)> {
        lock(&self.state).visibility_changes.clone()
    }

    /// Hands out visible messages as to an event source mapping.
    pub fn hand_out(&self, most: usize, visibility: Duration) -> Vec<ReceivedMessage> {
        let is_ordered = self.is_fifo();
        let (handed_out, redriven) = lock(&self.state).take(most, visibility);
        if let Some((dead_letters, mut entries)) = redriven {
            let mut state = lock(&dead_letters.state);
            if state.fifo.is_some() {
                // "For FIFO queues, the enqueue timestamp resets" ("Setting up dead-letter queue
                // retention").
                for entry in &mut entries {
                    entry.sent_at = FakeClock.now();
                }
            }
            state.entries.extend(entries);
            drop(state);
            dead_letters.changed.notify_waiters();
        }
        let record = |Entry {
                          id,
                          message,
                          sent_at,
                          receipt,
                          receive_count,
                          ..
                      }| ReceivedMessage {
            message_id: id,
            receipt: receipt.unwrap_or_else(ReceiptHandle::absent),
            receive_count,
            is_ordered,
            sent_at,
            message,
        };
        handed_out.into_iter().map(record).collect()
    }

    /// Waits until a message is visible.
    pub async fn until_visible(&self) {
        loop {
            let changed = self.changed.notified();
            let next = lock(&self.state).next_visible();
            match next {
                Some(at) if at <= Instant::now() => return,
                Some(at) => drop(timeout_at(at, changed).await),
                None => changed.await,
            }
        }
    }

    /// Returns whether it is a FIFO queue.
    pub fn is_fifo(&self) -> bool {
        lock(&self.state).fifo.is_some()
    }

    fn working(&self) -> Result<MutexGuard<'_, QueueState>, ServiceError> {
        let mut state = lock(&self.state);
        if state.failures_left > 0 {
            state.failures_left -= 1;
            return Err(unavailable());
        }
        state.expire();
        Ok(state)
    }

    async fn carry_out_move(self, destination: Self, task: usize, rate: u32) {
        loop {
            sleep(Duration::from_secs(1)).await;
            let now = Instant::now();
            let moved = {
                let mut state = lock(&self.state);
                state.expire();
                if state.moves[task].status != "RUNNING" {
                    return;
                }
                let (visible, hidden): (Vec<_>, Vec<_>) = std::mem::take(&mut state.entries)
                    .into_iter()
                    .partition(|entry| entry.visible_at <= now);
                let mut visible = visible.into_iter();
                let moved: Vec<_> = visible.by_ref().take(rate as usize).collect();
                state.entries = visible.chain(hidden).collect();
                state.moves[task].moved += moved.len() as u64;
                state.removed += moved.len();
                if moved.is_empty() {
                    "COMPLETED".clone_into(&mut state.moves[task].status);
                    state.moves[task].handle = None;
                    return;
                }
                moved
            };
            for entry in moved {
                destination.put(entry.message, Duration::ZERO);
            }
        }
    }

    fn put(&self, message: Message, delay: Duration) {
        let mut state = lock(&self.state);
        state.sent += 1;
        let entry = Entry {
            id: format!("message-{}", state.sent),
            message,
            sent_at: FakeClock.now(),
            receipt: None,
            receive_count: state.received_before,
            visible_at: Instant::now() + delay,
            is_deleted: false,
        };
        state.entries.push(entry);
        drop(state);
        self.changed.notify_waiters();
    }
}

impl QueueState {
    fn expire(&mut self) {
        if let Some(retention) = self.retention {
            let oldest = FakeClock.now() - retention;
            self.retain(|entry| entry.sent_at > oldest);
        }
    }

    fn retain(&mut self, is_kept: impl Fn(&Entry) -> bool) {
        let before = self.entries.len();
        self.entries.retain(is_kept);
        self.removed += before - self.entries.len();
    }

    fn by_receipt(&mut self, receipt: &ReceiptHandle) -> Option<&mut Entry> {
        self.entries
            .iter_mut()
            .find(|entry| entry.receipt.as_ref() == Some(receipt))
    }

    fn next_visible(&mut self) -> Option<Instant> {
        self.expire();
        if self.fifo.is_some() {
            return fifo::next_visible(&self.entries, self.disorder.is_some());
        }
        self.entries.iter().map(|entry| entry.visible_at).min()
    }

    /// Places of the messages that can be received now, in the order of their receipt.
    fn visible(&mut self, now: Instant) -> Vec<usize> {
        if self.fifo.is_some() {
            return fifo::visible(&self.entries, now, self.disorder.as_mut());
        }
        let places = 0..self.entries.len();
        places
            .filter(|place| self.entries[*place].visible_at <= now)
            .collect()
    }

    /// Takes visible messages, and those of them that were received too often already, with the
    /// queue they go to.
    fn take(
        &mut self,
        most: usize,
        visibility: Duration,
    ) -> (Vec<Entry>, Option<(FakeQueue, Vec<Entry>)>) {
        self.expire();
        let now = Instant::now();
        if let Some(rng) = self.disorder.as_mut().filter(|_| self.fifo.is_none()) {
            rng.shuffle(&mut self.entries);
        }
        let mut redriven = None;
        if let Some((dead_letters, max_receives)) = self.redrive.clone() {
            let mut places = self.visible(now);
            places.retain(|place| self.entries[*place].receive_count >= max_receives);
            if !places.is_empty() {
                places.sort_unstable();
                self.removed += places.len();
                let mut over: Vec<_> = places
                    .into_iter()
                    .rev()
                    .map(|place| Entry {
                        receipt: None,
                        ..self.entries.remove(place)
                    })
                    .collect();
                over.reverse();
                redriven = Some((dead_letters, over));
            }
        }
        let mut taken = Vec::new();
        for place in self.visible(now).into_iter().take(most) {
            self.receives += 1;
            let entry = &mut self.entries[place];
            entry.receipt = Some(ReceiptHandle(format!("receipt-{}", self.receives)));
            entry.receive_count += 1;
            let rng = self.disorder.as_mut().filter(|_| self.fifo.is_none());
            let is_twice = rng.is_some_and(|rng| rng.u32(..HANDED_OUT_TWICE) == 0);
            entry.visible_at = if is_twice { now } else { now + visibility };
            taken.push(entry.clone());
        }
        (taken, redriven)
    }
}
