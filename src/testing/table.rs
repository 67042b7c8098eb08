//! An events table in memory.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use jiff::Timestamp;
use uuid::Uuid;

use super::lock;
use crate::domain::attempts::Attempts;
use crate::domain::canary::CanaryRuns;
use crate::domain::circuit::Circuit;
use crate::domain::erasure::Erasures;
use crate::domain::event::EventId;
use crate::domain::event_record::{BulkReplay, EventRecord, Forgetting, Guard, LIFE, Transition};
use crate::ports::events_table::{
    BackgroundRun, Checkpoint, ConversationPage, EventsTable, LeaseName, Page, Position, RunLease,
    ScannedPage, StatementState, Window, Written,
};
use crate::ports::service::{Service, ServiceError};

/// An events table in memory, which can be made to fail.
#[derive(Clone, Default)]
pub struct FakeTable {
    state: Arc<Mutex<TableState>>,
}

#[derive(Default)]
struct TableState {
    records: BTreeMap<EventId, EventRecord>,
    unreadable: BTreeSet<EventId>,
    bodies: BTreeMap<EventId, (Vec<u8>, Timestamp)>,
    leases: BTreeMap<LeaseName, RunLease>,
    checkpoints: BTreeMap<String, Checkpoint>,
    statement: Option<StatementState>,
    attempts: BTreeMap<Timestamp, Attempts>,
    circuit: Option<Circuit>,
    canary: CanaryRuns,
    bulk_replay: Option<BulkReplay>,
    erasures: Erasures,
    background_runs: BTreeMap<String, (BackgroundRun, Timestamp)>,
    is_circuit_unreadable: bool,
    calls_until_failure: Option<usize>,
    failures_left: usize,
    calls_until_halt: Option<usize>,
    overtaken: usize,
    each_takes: Duration,
}

impl FakeTable {
    /// Makes every call fail from now on.
    pub fn fail(&self) {
        self.fail_after(0, usize::MAX);
    }

    /// Makes `times` calls fail after `calls` more.
    pub fn fail_after(&self, calls: usize, times: usize) {
        let mut state = lock(&self.state);
        (state.calls_until_failure, state.failures_left) = (Some(calls), times);
    }

    /// Makes every call after `calls` more hang until [`resume`](Self::resume).
    pub fn halt_after(&self, calls: usize) {
        lock(&self.state).calls_until_halt = Some(calls);
    }

    /// Lets calls return again.
    pub fn resume(&self) {
        lock(&self.state).calls_until_halt = None;
    }

    /// Has another worker change the record before each of the next `writes` to an existing one.
    pub fn overtake(&self, writes: usize) {
        lock(&self.state).overtaken = writes;
    }

    /// Delays each write of a record and each page of dead letters from now on.
    pub fn slow_down(&self, each_takes: Duration) {
        lock(&self.state).each_takes = each_takes;
    }

    async fn take_time(&self) {
        let each_takes = lock(&self.state).each_takes;
        if !each_takes.is_zero() {
            tokio::time::sleep(each_takes).await;
        }
    }

    /// The breaker's state cannot be read until it is saved again.
    pub fn spoil_circuit(&self) {
        lock(&self.state).is_circuit_unreadable = true;
    }

    /// The record of this event cannot be read from now on.
    pub fn spoil_record(&self, id: &EventId) {
        lock(&self.state).unreadable.insert(id.clone());
    }

    /// All records, by id.
    pub fn records(&self) -> Vec<EventRecord> {
        lock(&self.state).records.values().cloned().collect()
    }

    /// The record of one event.
    pub fn record(&self, id: &EventId) -> Option<EventRecord> {
        lock(&self.state).records.get(id).cloned()
    }

    /// The events whose bodies it keeps.
    pub fn kept_bodies(&self) -> Vec<EventId> {
        lock(&self.state).bodies.keys().cloned().collect()
    }

    /// Deletes expired items, as DynamoDB does some time later ("Using time to live (TTL) in
    /// DynamoDB").
    pub fn delete_expired(&self, now: Timestamp) {
        let mut state = lock(&self.state);
        state.records.retain(|_, record| !record.is_expired(now));
        state.bodies.retain(|_, (_, expires_at)| *expires_at > now);
    }

    pub fn only_record(&self) -> EventRecord {
        let mut records = self.records();
        assert_eq!(records.len(), 1, "{records:?}");
        records.remove(0)
    }

    async fn working(&self) -> Result<MutexGuard<'_, TableState>, ServiceError> {
        let halted = lock(&self.state).calls_until_halt == Some(0);
        if halted {
            std::future::pending::<()>().await;
        }
        let mut state = lock(&self.state);
        state.calls_until_halt = state.calls_until_halt.map(|calls| calls - 1);
        match state.calls_until_failure {
            Some(0) if state.failures_left > 0 => {
                state.failures_left -= 1;
                return Err(Service::DynamoDb.unavailable("the table was made to fail"));
            }
            Some(calls) => state.calls_until_failure = calls.checked_sub(1),
            None => {}
        }
        Ok(state)
    }
}

impl EventsTable for FakeTable {
    async fn get(&self, id: &EventId) -> Result<Option<EventRecord>, ServiceError> {
        let state = self.working().await?;
        if state.unreadable.contains(id) {
            return Err(Service::DynamoDb.unreadable("as a later version has it"));
        }
        Ok(state.records.get(id).cloned())
    }

    async fn get_many(
        &self,
        ids: &[EventId],
    ) -> Result<BTreeMap<EventId, EventRecord>, ServiceError> {
        let state = self.working().await?;
        Ok(ids
            .iter()
            .filter(|id| !state.unreadable.contains(*id))
            .filter_map(|id| Some((id.clone(), state.records.get(id)?.clone())))
            .collect())
    }

    async fn write(
        &self,
        Transition { next, guard }: &Transition,
    ) -> Result<Written, ServiceError> {
        self.take_time().await;
        let mut state = self.working().await?;
        if state.overtaken > 0
            && let Some(found) = state.records.get_mut(&next.event_id)
        {
            found.revision = Uuid::new_v4();
            state.overtaken -= 1;
        }
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

    async fn forget(
        &self,
        Forgetting { event_id, revision }: Forgetting<'_>,
    ) -> Result<Written, ServiceError> {
        let mut state = self.working().await?;
        match state.records.get(event_id) {
            Some(found) if found.revision != revision => {
                Ok(Written::Lost(Some(Box::new(found.clone()))))
            }
            Some(_) | None => {
                state.records.remove(event_id);
                Ok(Written::Done)
            }
        }
    }

    async fn keep_body(
        &self,
        id: &EventId,
        body: &[u8],
        now: Timestamp,
    ) -> Result<bool, ServiceError> {
        self.working()
            .await?
            .bodies
            .insert(id.clone(), (body.to_vec(), now + LIFE));
        Ok(true)
    }

    async fn body(&self, id: &EventId, now: Timestamp) -> Result<Option<Vec<u8>>, ServiceError> {
        let state = self.working().await?;
        Ok(state
            .bodies
            .get(id)
            .filter(|(_, expires_at)| *expires_at > now)
            .map(|(body, _)| body.clone()))
    }

    async fn delete_body(&self, id: &EventId) -> Result<(), ServiceError> {
        self.working().await?.bodies.remove(id);
        Ok(())
    }

    async fn take_back_body(&self, id: &EventId, kept_at: Timestamp) -> Result<(), ServiceError> {
        let mut state = self.working().await?;
        let is_older =
            |(_, end): &(Vec<u8>, Timestamp)| end.as_second() <= (kept_at + LIFE).as_second();
        if state.bodies.get(id).is_some_and(is_older) {
            state.bodies.remove(id);
        }
        Ok(())
    }

    async fn dead_letters(
        &self,
        window: Window,
        after: Option<&Position>,
        limit: usize,
    ) -> Result<Page, ServiceError> {
        self.take_time().await;
        let state = self.working().await?;
        let mut found: Vec<_> = state
            .records
            .values()
            .filter(|record| record.state.is_indexed())
            .filter(|record| window.since.is_none_or(|since| record.received_at >= since))
            .filter(|record| window.until.is_none_or(|until| record.received_at < until))
            .map(|record| {
                (
                    Position::of(record.received_at, &record.event_id),
                    record.summary(),
                )
            })
            .filter(|(position, _)| after.is_none_or(|after| position > after))
            .collect();
        found.sort_by(|(one, _), (other, _)| one.cmp(other));
        let more = found.len() > limit;
        found.truncate(limit);
        let next = found
            .last()
            .map(|(position, _)| position.clone())
            .filter(|_| more);
        Ok(Page {
            items: found.into_iter().map(|(_, item)| item).collect(),
            next,
        })
    }

    async fn waiting(
        &self,
        limit: usize,
        now: Timestamp,
    ) -> Result<(Vec<EventRecord>, bool), ServiceError> {
        let state = self.working().await?;
        let since = |record: &EventRecord| record.waiting.as_ref().map(|waiting| waiting.since);
        let mut waiting: Vec<_> = state
            .records
            .values()
            .filter(|record| since(record).is_some() && !record.is_expired(now))
            .cloned()
            .collect();
        waiting.sort_by_key(|record| (since(record), record.event_id.clone()));
        let more = waiting.len() > limit;
        waiting.truncate(limit);
        Ok((waiting, more))
    }

    async fn conversation(
        &self,
        conversation_id: &str,
        after: Option<&Position>,
        limit: usize,
    ) -> Result<ConversationPage, ServiceError> {
        let state = self.working().await?;
        let is_of =
            |record: &&EventRecord| record.conversation_id.as_deref() == Some(conversation_id);
        let mut positions: Vec<_> = state
            .records
            .values()
            .filter(is_of)
            .map(|record| {
                (
                    Position::of(record.received_at, &record.event_id),
                    record.event_id.clone(),
                )
            })
            .filter(|(position, _)| after.is_none_or(|after| position > after))
            .collect();
        positions.sort_unstable();
        let more = positions.len() > limit;
        positions.truncate(limit);
        Ok(ConversationPage {
            next: positions
                .last()
                .map(|(position, _)| position.clone())
                .filter(|_| more),
            event_ids: positions.into_iter().map(|(_, id)| id).collect(),
        })
    }

    async fn scan(&self, after: Option<&str>, limit: usize) -> Result<ScannedPage, ServiceError> {
        self.take_time().await;
        let state = self.working().await?;
        let after = after
            .map(|after| after.parse::<EventId>().expect("a key of a page"))
            .map_or(Bound::Unbounded, Bound::Excluded);
        let mut page = ScannedPage::default();
        for (id, record) in state.records.range((after, Bound::Unbounded)).take(limit) {
            if state.unreadable.contains(id) {
                page.unreadable.push(id.to_string());
            } else {
                page.records.push(record.clone());
            }
            page.next = Some(id.to_string());
        }
        let is_full = page.records.len() + page.unreadable.len() == limit;
        page.next = page.next.filter(|_| is_full);
        Ok(page)
    }

    async fn erasures(&self) -> Result<Erasures, ServiceError> {
        Ok(self.working().await?.erasures.clone())
    }

    async fn save_erasures(&self, erasures: &Erasures) -> Result<(), ServiceError> {
        self.working().await?.erasures = erasures.clone();
        Ok(())
    }

    async fn acquire(
        &self,
        what: LeaseName,
        lease: &RunLease,
        now: Timestamp,
    ) -> Result<Option<RunLease>, ServiceError> {
        let mut state = self.working().await?;
        if let Some(held) = state
            .leases
            .get(&what)
            .filter(|held| held.until > now && held.owner != lease.owner)
        {
            return Ok(Some(held.clone()));
        }
        state.leases.insert(what, lease.clone());
        Ok(None)
    }

    async fn release(&self, what: LeaseName, owner: Uuid) -> Result<(), ServiceError> {
        let mut state = self.working().await?;
        if state
            .leases
            .get(&what)
            .is_some_and(|held| held.owner == owner)
        {
            state.leases.remove(&what);
        }
        Ok(())
    }

    async fn lease(
        &self,
        what: LeaseName,
        now: Timestamp,
    ) -> Result<Option<RunLease>, ServiceError> {
        Ok(self
            .working()
            .await?
            .leases
            .get(&what)
            .cloned()
            .filter(|lease| lease.until > now))
    }

    async fn bulk_replay(&self) -> Result<Option<BulkReplay>, ServiceError> {
        Ok(self.working().await?.bulk_replay.clone())
    }

    async fn save_bulk_replay(&self, replay: &BulkReplay) -> Result<(), ServiceError> {
        self.working().await?.bulk_replay = Some(replay.clone());
        Ok(())
    }

    async fn background_run(
        &self,
        run_id: &str,
        now: Timestamp,
    ) -> Result<Option<BackgroundRun>, ServiceError> {
        let state = self.working().await?;
        Ok(state
            .background_runs
            .get(run_id)
            .filter(|(_, end)| *end > now)
            .map(|(run, _)| run.clone()))
    }

    async fn save_background_run(
        &self,
        run: &BackgroundRun,
        from: Option<Uuid>,
        now: Timestamp,
    ) -> Result<bool, ServiceError> {
        let mut state = self.working().await?;
        let found = state.background_runs.get(&run.run_id);
        let revision = found
            .filter(|(_, end)| from.is_some() || *end > now)
            .map(|(found, _)| found.revision);
        if revision != from && revision != Some(run.revision) {
            return Ok(false);
        }
        state
            .background_runs
            .insert(run.run_id.clone(), (run.clone(), now + LIFE));
        Ok(true)
    }

    async fn checkpoint(&self, source: &str) -> Result<Option<Checkpoint>, ServiceError> {
        Ok(self.working().await?.checkpoints.get(source).cloned())
    }

    async fn save_checkpoint(
        &self,
        source: &str,
        checkpoint: &Checkpoint,
    ) -> Result<(), ServiceError> {
        self.working()
            .await?
            .checkpoints
            .insert(source.to_owned(), checkpoint.clone());
        Ok(())
    }

    async fn statement(&self) -> Result<Option<StatementState>, ServiceError> {
        Ok(self.working().await?.statement.clone())
    }

    async fn save_statement(
        &self,
        next: &StatementState,
        from: Option<Uuid>,
    ) -> Result<bool, ServiceError> {
        let mut state = self.working().await?;
        let found = state.statement.as_ref().map(|found| found.revision);
        if found != from && found != Some(next.revision) {
            return Ok(false);
        }
        state.statement = Some(next.clone());
        Ok(true)
    }

    async fn count_attempts(
        &self,
        minute: Timestamp,
        attempts: &Attempts,
    ) -> Result<(), ServiceError> {
        self.working()
            .await?
            .attempts
            .entry(minute)
            .or_default()
            .add(attempts);
        Ok(())
    }

    async fn attempts(&self, minutes: &[Timestamp]) -> Result<Vec<Attempts>, ServiceError> {
        let state = self.working().await?;
        Ok(minutes
            .iter()
            .map(|minute| state.attempts.get(minute).cloned().unwrap_or_default())
            .collect())
    }

    async fn circuit(&self) -> Result<Option<Circuit>, ServiceError> {
        let state = self.working().await?;
        if state.is_circuit_unreadable {
            return Err(Service::DynamoDb.unreadable("as a later version has it"));
        }
        Ok(state.circuit.clone())
    }

    async fn save_circuit(&self, circuit: &Circuit) -> Result<(), ServiceError> {
        let mut state = self.working().await?;
        (state.circuit, state.is_circuit_unreadable) = (Some(circuit.clone()), false);
        Ok(())
    }

    async fn canary_runs(&self) -> Result<CanaryRuns, ServiceError> {
        Ok(self.working().await?.canary.clone())
    }

    async fn save_canary_runs(&self, runs: &CanaryRuns) -> Result<(), ServiceError> {
        self.working().await?.canary = runs.clone();
        Ok(())
    }
}
