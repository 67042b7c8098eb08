//! A queue in memory that does what the documentation of SQS says, and no more.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout_at};

use super::{FakeClock, lock};
use crate::domain::message::Message;
use crate::domain::queue_depth::QueueDepth;
use crate::ports::clock::Clock;
use crate::ports::queue::{
    Countable, LONGEST_DELAY, MoveTask, RECEIVED_AT_ONCE, ReceiptHandle, ReceivedMessage, Receiver,
    Redrive, Sender, VisibilityTimeout,
};
use crate::ports::service::{Service, ServiceError};

/// The default rate of a move task, per second.
const MOVED_PER_SECOND: u32 = 500;

/// One in this many messages that an unordered queue hands out stays visible and is handed out once
/// more.
const HANDED_OUT_TWICE: u32 = 40;

/// One in this many messages that are deleted from an unordered queue comes back all the same.
const COMES_BACK: u32 = 60;

/// A queue in memory, on tokio's clock.
///
/// It hides, returns, deletes, counts, expires, redrives and moves messages as SQS does. It keeps
/// their order unless it is [told otherwise](Self::disorder), and works unless it is made to fail.
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
    retention: Option<SignedDuration>,
    redrive: Option<(FakeQueue, u32)>,
    disorder: Option<fastrand::Rng>,
    failures_left: usize,
    receives_refused: bool,
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
}

fn unavailable() -> ServiceError {
    Service::Sqs.unavailable("the queue was made to fail")
}

impl FakeQueue {
    /// Deletes messages that were sent longer ago than this (`MessageRetentionPeriod`).
    #[must_use]
    pub fn keeping_for(self, retention: SignedDuration) -> Self {
        lock(&self.state).retention = Some(retention);
        self
    }

    /// Moves a message that was received `max_receives` times to `dead_letters` instead of giving
    /// it once more (`RedrivePolicy`). It keeps its id and the time at which it was sent.
    #[must_use]
    pub fn redriving_to(self, dead_letters: &Self, max_receives: u32) -> Self {
        lock(&self.state).redrive = Some((dead_letters.clone(), max_receives));
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
        let (handed_out, redriven) = lock(&self.state).take(most, visibility);
        if let Some((dead_letters, entries)) = redriven {
            lock(&dead_letters.state).entries.extend(entries);
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
            receive_count: 0,
            visible_at: Instant::now() + delay,
        };
        state.entries.push(entry);
        drop(state);
        self.changed.notify_waiters();
    }
}

impl QueueState {
    fn expire(&mut self) {
        if let Some(retention) = self.retention {
            let now = FakeClock.now();
            self.retain(|entry| entry.sent_at + retention > now);
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
        self.entries.iter().map(|entry| entry.visible_at).min()
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
        if let Some(rng) = &mut self.disorder {
            rng.shuffle(&mut self.entries);
        }
        let mut redriven = None;
        if let Some((dead_letters, max_receives)) = &self.redrive {
            let is_over =
                |entry: &Entry| entry.visible_at <= now && entry.receive_count >= *max_receives;
            if self.entries.iter().any(is_over) {
                let (mut over, left): (Vec<_>, Vec<_>) = std::mem::take(&mut self.entries)
                    .into_iter()
                    .partition(is_over);
                self.entries = left;
                self.removed += over.len();
                for entry in &mut over {
                    entry.receipt = None;
                }
                redriven = Some((dead_letters.clone(), over));
            }
        }
        let mut taken = Vec::new();
        for entry in self
            .entries
            .iter_mut()
            .filter(|entry| entry.visible_at <= now)
            .take(most)
        {
            self.receives += 1;
            entry.receipt = Some(ReceiptHandle(format!("receipt-{}", self.receives)));
            entry.receive_count += 1;
            let is_twice = self
                .disorder
                .as_mut()
                .is_some_and(|rng| rng.u32(..HANDED_OUT_TWICE) == 0);
            entry.visible_at = if is_twice { now } else { now + visibility };
            taken.push(entry.clone());
        }
        (taken, redriven)
    }
}

impl Sender for FakeQueue {
    async fn send(&self, message: &Message) -> Result<(), ServiceError> {
        self.wait(|state| state.send_delay).await;
        drop(self.working()?);
        self.put(message.clone(), Duration::ZERO);
        Ok(())
    }

    async fn send_all(&self, messages: &[Message]) -> Vec<Result<(), ServiceError>> {
        let mut results = Vec::new();
        for message in messages {
            results.push(self.send(message).await);
        }
        results
    }

    async fn send_delayed(
        &self,
        messages: &[(Message, Duration)],
    ) -> Vec<Result<(), ServiceError>> {
        let mut results = Vec::new();
        for (message, delay) in messages {
            self.wait(|state| state.send_delay).await;
            let whole = delay.as_secs() + u64::from(delay.subsec_nanos() > 0);
            let delay = Duration::from_secs(whole).min(LONGEST_DELAY);
            let sent = self.working().map(drop);
            results.push(sent.map(|()| self.put(message.clone(), delay)));
        }
        results
    }
}

impl VisibilityTimeout for FakeQueue {
    async fn change_visibility(
        &self,
        changes: &[(ReceiptHandle, Duration)],
    ) -> Vec<Result<(), ServiceError>> {
        self.wait(|state| state.change_delay).await;
        let now = Instant::now();
        let change = |(receipt, visibility): &(ReceiptHandle, Duration)| {
            let mut state = self.working()?;
            state
                .visibility_changes
                .push((receipt.clone(), *visibility));
            match state
                .by_receipt(receipt)
                .filter(|entry| entry.visible_at > now)
            {
                Some(entry) => {
                    let seconds = visibility.as_secs() + u64::from(visibility.subsec_nanos() > 0);
                    entry.visible_at = now + Duration::from_secs(seconds);
                }
                None => return Err(Service::Sqs.refused("MessageNotInflight")),
            }
            Ok(())
        };
        let results = changes.iter().map(change).collect();
        self.changed.notify_waiters();
        results
    }
}

impl Receiver for FakeQueue {
    async fn receive(
        &self,
        most: usize,
        visibility: Duration,
        wait: Duration,
    ) -> Result<Vec<ReceivedMessage>, ServiceError> {
        self.wait(|state| state.receive_delay).await;
        let until = Instant::now() + wait;
        loop {
            if self.working()?.receives_refused {
                return Err(unavailable());
            }
            let records = self.hand_out(most.min(RECEIVED_AT_ONCE), visibility);
            if !records.is_empty() || timeout_at(until, self.until_visible()).await.is_err() {
                return Ok(records);
            }
        }
    }

    async fn delete(&self, receipts: &[ReceiptHandle]) -> Vec<Result<(), ServiceError>> {
        let delete = |receipt: &ReceiptHandle| {
            let mut state = self.working()?;
            let comes_back = state
                .disorder
                .as_mut()
                .is_some_and(|rng| rng.u32(..COMES_BACK) == 0);
            if !comes_back {
                // An older receipt of a message that was received again deletes nothing, and that
                // is no error.
                state.retain(|entry| entry.receipt.as_ref() != Some(receipt));
            }
            Ok(())
        };
        receipts.iter().map(delete).collect()
    }
}

impl Countable for FakeQueue {
    async fn depth(&self) -> Result<QueueDepth, ServiceError> {
        let now = Instant::now();
        let state = self.working()?;
        let visible = state
            .entries
            .iter()
            .filter(|entry| entry.visible_at <= now)
            .count();
        Ok(QueueDepth {
            visible: visible as u64,
            in_flight: (state.entries.len() - visible) as u64,
            delayed: 0,
        })
    }

    async fn age(&self) -> Result<Option<Duration>, ServiceError> {
        let now = FakeClock.now();
        let oldest = self
            .working()?
            .entries
            .iter()
            .map(|entry| entry.sent_at)
            .min();
        Ok(oldest.and_then(|sent_at| Duration::try_from(now.duration_since(sent_at)).ok()))
    }
}

impl Redrive for FakeQueue {
    async fn start_move(&self, rate: Option<u32>) -> Result<(), ServiceError> {
        let mut state = self.working()?;
        if state.moves_refused || state.moves.last().is_some_and(MoveTask::is_active) {
            return Err(Service::Sqs.refused("no task can be started, or one is running"));
        }
        let task = state.moves.len();
        let to_move = state.entries.len() as u64;
        state.moves.push(MoveTask {
            status: "RUNNING".to_owned(),
            moved: 0,
            to_move: Some(to_move),
            rate_per_second: rate,
            failure: None,
            started_at: Some(FakeClock.now()),
            handle: Some(format!("task-{task}")),
        });
        if let Some(destination) = state.moves_to.clone() {
            tokio::spawn(self.clone().carry_out_move(
                destination,
                task,
                rate.unwrap_or(MOVED_PER_SECOND),
            ));
        }
        Ok(())
    }

    async fn latest_move(&self) -> Result<Option<MoveTask>, ServiceError> {
        Ok(self.working()?.moves.last().cloned())
    }

    async fn cancel_move(&self, handle: &str) -> Result<(), ServiceError> {
        let mut state = self.working()?;
        for task in &mut state.moves {
            if task.handle.as_deref() == Some(handle) {
                "CANCELLED".clone_into(&mut task.status);
                task.handle = None;
            }
        }
        Ok(())
    }
}
