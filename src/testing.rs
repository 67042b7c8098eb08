//! Stand-ins for the ports, for tests only: they are compiled with the feature `testing` and never shipped.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;

use crate::clock::Clock;
use crate::message::Message;
use crate::queue::{
    Countable, Depth, MoveTask, QueueError, ReceiptHandle, Received, Receiver, Redrive, Sender, VisibilityTimeout,
};
use crate::secrets::{SecretStore, SecretsError};
use crate::target::{Delivery, Outcome, Target};

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

thread_local! {
    static FIRST_LOOK: tokio::time::Instant = tokio::time::Instant::now();
}

/// A clock that showed noon of 15 January 2026 when this thread first looked, and follows tokio's clock from there.
#[derive(Debug, Clone, Copy, Default)]
pub struct FakeClock;

impl Clock for FakeClock {
    fn now(&self) -> Timestamp {
        let noon = Timestamp::from_second(1_768_478_400).expect("in range");
        noon + FIRST_LOOK.with(tokio::time::Instant::elapsed)
    }
}

/// A secret in memory whose store can be made to fail.
#[derive(Clone)]
pub struct FakeSecretStore {
    held: Arc<Mutex<Option<String>>>,
    reads: Arc<AtomicUsize>,
}

impl FakeSecretStore {
    /// A store that holds `secret`.
    pub fn holding(secret: &serde_json::Value) -> Self {
        Self { held: Arc::new(Mutex::new(Some(secret.to_string()))), reads: Arc::default() }
    }

    /// From now on it holds `secret`.
    pub fn hold(&self, secret: &serde_json::Value) {
        *lock(&self.held) = Some(secret.to_string());
    }

    /// From now on it cannot be read.
    pub fn fail(&self) {
        *lock(&self.held) = None;
    }

    /// How often it was read, failures counted.
    pub fn reads(&self) -> usize {
        self.reads.load(Ordering::Relaxed)
    }
}

impl SecretStore for FakeSecretStore {
    async fn read(&self) -> Result<String, SecretsError> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        lock(&self.held).clone().ok_or_else(|| SecretsError::Unavailable("the store was made to fail".into()))
    }
}

/// A queue in memory, on tokio's clock.
///
/// It hides, returns, deletes and counts messages as SQS does; it keeps their order, which SQS does not promise.
#[derive(Clone, Default)]
pub struct FakeQueue {
    state: Arc<Mutex<QueueState>>,
}

#[derive(Default)]
struct QueueState {
    entries: VecDeque<Entry>,
    receives: u64,
    failures_left: usize,
    visibility_changes: Vec<(ReceiptHandle, Duration)>,
    moves: Vec<MoveTask>,
}

struct Entry {
    message: Message,
    sent_at: Timestamp,
    receipt: Option<ReceiptHandle>,
    visible_at: tokio::time::Instant,
}

fn unavailable() -> QueueError {
    QueueError::Unavailable("the queue was made to fail".into())
}

impl FakeQueue {
    /// From now on every call fails.
    pub fn fail(&self) {
        self.fail_times(usize::MAX);
    }

    /// So many calls fail from now on; each entry of a batch counts as one.
    pub fn fail_times(&self, times: usize) {
        lock(&self.state).failures_left = times;
    }

    /// What it holds, hidden messages included.
    pub fn messages(&self) -> Vec<Message> {
        lock(&self.state).entries.iter().map(|entry| entry.message.clone()).collect()
    }

    /// Every change of a visibility timeout so far.
    pub fn visibility_changes(&self) -> Vec<(ReceiptHandle, Duration)> {
        lock(&self.state).visibility_changes.clone()
    }

    fn working(&self) -> Result<MutexGuard<'_, QueueState>, QueueError> {
        let mut state = lock(&self.state);
        if state.failures_left > 0 {
            state.failures_left -= 1;
            return Err(unavailable());
        }
        Ok(state)
    }
}

impl Sender for FakeQueue {
    async fn send(&self, message: &Message) -> Result<(), QueueError> {
        let sent_at = FakeClock.now();
        self.working()?.entries.push_back(Entry {
            message: message.clone(),
            sent_at,
            receipt: None,
            visible_at: tokio::time::Instant::now(),
        });
        Ok(())
    }

    async fn send_all(&self, messages: &[Message]) -> Vec<Result<(), QueueError>> {
        let mut results = Vec::new();
        for message in messages {
            results.push(self.send(message).await);
        }
        results
    }
}

impl VisibilityTimeout for FakeQueue {
    async fn change_visibility(&self, changes: &[(ReceiptHandle, Duration)]) -> Vec<Result<(), QueueError>> {
        let now = tokio::time::Instant::now();
        let change = |(receipt, visibility): &(ReceiptHandle, Duration)| {
            let mut state = self.working()?;
            state.visibility_changes.push((receipt.clone(), *visibility));
            if let Some(entry) = state.entries.iter_mut().find(|entry| entry.receipt.as_ref() == Some(receipt)) {
                entry.visible_at = now + *visibility;
            }
            Ok(())
        };
        changes.iter().map(change).collect()
    }
}

impl Receiver for FakeQueue {
    async fn receive(&self, visibility: Duration, wait: Duration) -> Result<Vec<Received>, QueueError> {
        let until = tokio::time::Instant::now() + wait;
        loop {
            let now = tokio::time::Instant::now();
            let mut received = Vec::new();
            {
                let mut guard = self.working()?;
                let state = &mut *guard;
                for entry in state.entries.iter_mut().filter(|entry| entry.visible_at <= now).take(10) {
                    state.receives += 1;
                    let receipt = ReceiptHandle(format!("receipt-{}", state.receives));
                    entry.receipt = Some(receipt.clone());
                    entry.visible_at = now + visibility;
                    received.push(Received { message: entry.message.clone(), receipt, sent_at: entry.sent_at });
                }
            }
            if !received.is_empty() || now >= until {
                return Ok(received);
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    async fn delete(&self, receipts: &[ReceiptHandle]) -> Vec<Result<(), QueueError>> {
        let delete = |receipt: &ReceiptHandle| {
            self.working()?.entries.retain(|entry| entry.receipt.as_ref() != Some(receipt));
            Ok(())
        };
        receipts.iter().map(delete).collect()
    }
}

impl Countable for FakeQueue {
    async fn depth(&self) -> Result<Depth, QueueError> {
        let now = tokio::time::Instant::now();
        let state = self.working()?;
        let visible = state.entries.iter().filter(|entry| entry.visible_at <= now).count();
        Ok(Depth { visible: visible as u64, in_flight: (state.entries.len() - visible) as u64, delayed: 0 })
    }
}

impl Redrive for FakeQueue {
    async fn start_move(&self, rate: Option<u32>) -> Result<(), QueueError> {
        let mut state = self.working()?;
        let to_move = state.entries.len() as u64;
        state.moves.push(MoveTask {
            status: "RUNNING".to_owned(),
            moved: 0,
            to_move: Some(to_move),
            rate_per_second: rate,
            failure: None,
            started_at: None,
            handle: Some("task".to_owned()),
        });
        Ok(())
    }

    async fn latest_move(&self) -> Result<Option<MoveTask>, QueueError> {
        Ok(self.working()?.moves.last().cloned())
    }

    async fn cancel_move(&self, handle: &str) -> Result<(), QueueError> {
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

/// A target that answers as a closure says.
#[derive(Clone)]
pub struct FakeTarget<F>(pub F);

impl<F, O> Target for FakeTarget<F>
where
    F: Fn(crate::event::Event, u32) -> O + Send + Sync + 'static,
    O: Future<Output = Outcome> + Send,
{
    async fn deliver(&self, delivery: Delivery<'_>) -> Outcome {
        (self.0)(delivery.event.clone(), delivery.attempt).await
    }
}
