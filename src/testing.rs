//! Stand-ins for the ports, for tests only: they are compiled with the feature `testing` and never shipped.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;

use uuid::Uuid;

use crate::archive::{Archive, ArchiveError};
use crate::clock::Clock;
use crate::event::EventId;
use crate::events_table::{Checkpoint, EventsTable, Exclusive, Lease, Page, Position, TableError, Window, Written};
use crate::message::Message;
use crate::queue::{
    Countable, Depth, MoveTask, QueueError, ReceiptHandle, Received, Receiver, Redrive, Sender, VisibilityTimeout,
};
use crate::record::{Guard, Record, Transition};
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
    receives_refused: bool,
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

    /// From now on every receive fails.
    pub fn refuse_receives(&self) {
        lock(&self.state).receives_refused = true;
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
                if state.receives_refused {
                    return Err(unavailable());
                }
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

    async fn age(&self) -> Result<Option<Duration>, QueueError> {
        let now = FakeClock.now();
        let oldest = self.working()?.entries.iter().map(|entry| entry.sent_at).min();
        Ok(oldest.and_then(|sent_at| Duration::try_from(now.duration_since(sent_at)).ok()))
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

/// An events table in memory, which can be made to fail.
#[derive(Clone, Default)]
pub struct FakeTable {
    state: Arc<Mutex<TableState>>,
}

#[derive(Default)]
struct TableState {
    records: BTreeMap<EventId, Record>,
    bodies: HashMap<EventId, Vec<u8>>,
    leases: BTreeMap<Exclusive, Lease>,
    checkpoints: BTreeMap<String, Checkpoint>,
    calls_until_failure: Option<usize>,
    failures_left: usize,
    calls_until_halt: Option<usize>,
}

impl FakeTable {
    /// From now on every call fails.
    pub fn fail(&self) {
        self.fail_after(0, usize::MAX);
    }

    /// After `calls` more calls, so many calls fail.
    pub fn fail_after(&self, calls: usize, times: usize) {
        let mut state = lock(&self.state);
        (state.calls_until_failure, state.failures_left) = (Some(calls), times);
    }

    /// After `calls` more calls, none comes back until it is told to resume.
    pub fn halt_after(&self, calls: usize) {
        lock(&self.state).calls_until_halt = Some(calls);
    }

    /// From now on it answers again.
    pub fn resume(&self) {
        lock(&self.state).calls_until_halt = None;
    }

    /// All records, by id.
    pub fn records(&self) -> Vec<Record> {
        lock(&self.state).records.values().cloned().collect()
    }

    /// The one record that there is.
    pub fn only_record(&self) -> Record {
        let mut records = self.records();
        assert_eq!(records.len(), 1, "{records:?}");
        records.remove(0)
    }

    async fn working(&self) -> Result<MutexGuard<'_, TableState>, TableError> {
        let halted = lock(&self.state).calls_until_halt == Some(0);
        if halted {
            std::future::pending::<()>().await;
        }
        let mut state = lock(&self.state);
        state.calls_until_halt = state.calls_until_halt.map(|calls| calls - 1);
        match state.calls_until_failure {
            Some(0) if state.failures_left > 0 => {
                state.failures_left -= 1;
                return Err(TableError::Unavailable("the table was made to fail".into()));
            }
            Some(calls) => state.calls_until_failure = calls.checked_sub(1),
            None => {}
        }
        Ok(state)
    }
}

impl EventsTable for FakeTable {
    async fn get(&self, id: &EventId) -> Result<Option<Record>, TableError> {
        Ok(self.working().await?.records.get(id).cloned())
    }

    async fn get_many(&self, ids: &[EventId]) -> Result<HashMap<EventId, Record>, TableError> {
        let state = self.working().await?;
        Ok(ids.iter().filter_map(|id| Some((id.clone(), state.records.get(id)?.clone()))).collect())
    }

    async fn write(&self, Transition { next, guard }: &Transition) -> Result<Written, TableError> {
        let mut state = self.working().await?;
        let found = state.records.get(&next.event_id);
        let holds = match guard {
            Guard::Absent => found.is_none(),
            Guard::Unchanged(revision) => found.is_some_and(|found| found.revision == *revision),
        };
        if !holds && found.is_none_or(|found| found.revision != next.revision) {
            return Ok(Written::Lost(found.cloned().map(Box::new)));
        }
        state.records.insert(next.event_id.clone(), next.clone());
        Ok(Written::Done)
    }

    async fn keep_body(&self, id: &EventId, body: &[u8], _now: Timestamp) -> Result<bool, TableError> {
        self.working().await?.bodies.insert(id.clone(), body.to_vec());
        Ok(true)
    }

    async fn body(&self, id: &EventId) -> Result<Option<Vec<u8>>, TableError> {
        Ok(self.working().await?.bodies.get(id).cloned())
    }

    async fn dead_letters(&self, window: Window, after: Option<&Position>, limit: usize) -> Result<Page, TableError> {
        let state = self.working().await?;
        let mut found: Vec<_> = state
            .records
            .values()
            .filter(|record| record.state.is_indexed())
            .filter(|record| window.since.is_none_or(|since| record.received_at >= since))
            .filter(|record| window.until.is_none_or(|until| record.received_at < until))
            .map(|record| (Position::of(record.received_at, &record.event_id), record.summary()))
            .filter(|(position, _)| after.is_none_or(|after| position > after))
            .collect();
        found.sort_by(|(one, _), (other, _)| one.cmp(other));
        let more = found.len() > limit;
        found.truncate(limit);
        let next = found.last().map(|(position, _)| position.clone()).filter(|_| more);
        Ok(Page { items: found.into_iter().map(|(_, item)| item).collect(), next })
    }

    async fn acquire(&self, what: Exclusive, lease: &Lease, now: Timestamp) -> Result<Option<Lease>, TableError> {
        let mut state = self.working().await?;
        if let Some(held) = state.leases.get(&what).filter(|held| held.until > now && held.owner != lease.owner) {
            return Ok(Some(held.clone()));
        }
        state.leases.insert(what, lease.clone());
        Ok(None)
    }

    async fn release(&self, what: Exclusive, owner: Uuid) -> Result<(), TableError> {
        let mut state = self.working().await?;
        if state.leases.get(&what).is_some_and(|held| held.owner == owner) {
            state.leases.remove(&what);
        }
        Ok(())
    }

    async fn lease(&self, what: Exclusive, now: Timestamp) -> Result<Option<Lease>, TableError> {
        Ok(self.working().await?.leases.get(&what).cloned().filter(|lease| lease.until > now))
    }

    async fn checkpoint(&self, source: &str) -> Result<Option<Checkpoint>, TableError> {
        Ok(self.working().await?.checkpoints.get(source).cloned())
    }

    async fn save_checkpoint(&self, source: &str, checkpoint: &Checkpoint) -> Result<(), TableError> {
        self.working().await?.checkpoints.insert(source.to_owned(), checkpoint.clone());
        Ok(())
    }
}

/// An archive in memory.
#[derive(Clone, Default)]
pub struct FakeArchive {
    objects: Arc<Mutex<BTreeMap<String, Vec<u8>>>>,
    fails: Arc<AtomicUsize>,
}

impl FakeArchive {
    /// So many writes fail from now on.
    pub fn fail_times(&self, times: usize) {
        self.fails.store(times, Ordering::Relaxed);
    }

    /// The keys of all objects.
    pub fn keys(&self) -> Vec<String> {
        lock(&self.objects).keys().cloned().collect()
    }
}

impl Archive for FakeArchive {
    async fn put(&self, key: &str, object: Vec<u8>) -> Result<(), ArchiveError> {
        let left = self.fails.load(Ordering::Relaxed);
        if left > 0 {
            self.fails.store(left - 1, Ordering::Relaxed);
            return Err(ArchiveError::Unavailable("the archive was made to fail".into()));
        }
        lock(&self.objects).insert(key.to_owned(), object);
        Ok(())
    }

    async fn get(&self, key: &str) -> Result<Vec<u8>, ArchiveError> {
        lock(&self.objects).get(key).cloned().ok_or_else(|| ArchiveError::NotFound(key.to_owned()))
    }
}

/// A target that answers as a closure says.
#[derive(Clone)]
pub struct FakeTarget<F> {
    answer: F,
    deliveries: Arc<AtomicUsize>,
}

impl<F> FakeTarget<F> {
    /// A target that answers an event, and the number of the attempt, as `answer` says.
    pub fn new(answer: F) -> Self {
        Self { answer, deliveries: Arc::default() }
    }

    /// How often anything was delivered to it.
    pub fn deliveries(&self) -> usize {
        self.deliveries.load(Ordering::Relaxed)
    }
}

impl<F, O> Target for FakeTarget<F>
where
    F: Fn(crate::event::Event, u32) -> O + Send + Sync + 'static,
    O: Future<Output = Outcome> + Send,
{
    async fn deliver(&self, delivery: Delivery<'_>) -> Outcome {
        self.deliveries.fetch_add(1, Ordering::Relaxed);
        (self.answer)(delivery.event.clone(), delivery.attempt).await
    }

    fn address(&self) -> String {
        "a closure".to_owned()
    }
}
