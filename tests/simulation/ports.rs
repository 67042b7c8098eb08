//! Ports of the use cases behind a network with faults.

use std::collections::{BTreeMap, BTreeSet};
use std::slice;
use std::time::Duration;

use genesys_relay::domain::attempts::Attempts;
use genesys_relay::domain::canary::CanaryRuns;
use genesys_relay::domain::check::CheckEvent;
use genesys_relay::domain::circuit::Circuit;
use genesys_relay::domain::erasure::Erasures;
use genesys_relay::domain::event::{EventId, Source};
use genesys_relay::domain::event_record::{BulkReplay, EventRecord, Forgetting, State, Transition};
use genesys_relay::domain::message::Message;
use genesys_relay::domain::queue_depth::QueueDepth;
use genesys_relay::ports::archive::{
    self, Archive, ArchiveError, KeyPage, VersionPage, VersionPosition,
};
use genesys_relay::ports::clock::Clock;
use genesys_relay::ports::events_table::{
    BackgroundRun, Checkpoint, ConversationPage, EventsTable, LeaseName, Page, Position, RunLease,
    ScannedPage, StatementState, Window, Written,
};
use genesys_relay::ports::queue::{
    Countable, MoveTask, ReceiptHandle, ReceivedMessage, Receiver, Redrive, Sender,
    VisibilityTimeout,
};
use genesys_relay::ports::secrets::{SecretStore, SecretsError};
use genesys_relay::ports::service::{self, ServiceError};
use genesys_relay::testing::{FakeArchive, FakeClock, FakeQueue, FakeSecretStore, FakeTable};
use jiff::{SignedDuration, Timestamp};
use uuid::Uuid;

use crate::faults::{Process, Service};
use crate::invariants::label_of;

/// Most entries of an SQS batch call.
const BATCH: usize = 10;

/// Rate of batch entries that fail although the call succeeds.
const FAILED_ENTRIES_PER_THOUSAND: u32 = 20;

/// Longest time by which the index of conversations lags behind the table, in milliseconds.
const INDEX_LAG: u64 = 3000;

/// Clock of one process, with its skew.
#[derive(Clone, Copy)]
pub(crate) struct SkewedClock(pub(crate) SignedDuration);

impl Clock for SkewedClock {
    fn now(&self) -> Timestamp {
        FakeClock.now() + self.0
    }
}

/// Port at the other end of the network.
#[derive(Clone)]
pub(crate) struct Remote<P> {
    pub(crate) port: P,
    pub(crate) service: Service,
    pub(crate) process: Process,
}

fn queue_unavailable() -> ServiceError {
    service::Service::Sqs.unavailable("injected fault")
}

fn table_unavailable<T>() -> Result<T, ServiceError> {
    Err(service::Service::DynamoDb.unavailable("injected fault"))
}

impl Remote<FakeQueue> {
    async fn call<T>(
        &self,
        work: impl Future<Output = Result<T, ServiceError>>,
    ) -> Result<T, ServiceError> {
        self.process
            .call(self.service, work, || Err(queue_unavailable()))
            .await
    }

    /// Calls in batches, of which single entries can fail.
    async fn call_in_batches<'a, I: Sync, F: Future<Output = Result<(), ServiceError>>>(
        &self,
        items: &'a [I],
        one: impl Fn(&'a I) -> F,
    ) -> Vec<Result<(), ServiceError>> {
        let mut results = Vec::new();
        for batch in items.chunks(BATCH) {
            let work = async {
                let mut results = Vec::new();
                for item in batch {
                    if self
                        .process
                        .faults()
                        .should_fail(FAILED_ENTRIES_PER_THOUSAND)
                    {
                        self.process
                            .record_fault(self.service, "entries of batches failed");
                        results.push(Err(queue_unavailable()));
                    } else {
                        results.push(one(item).await);
                    }
                }
                results
            };
            let unavailable = || batch.iter().map(|_| Err(queue_unavailable())).collect();
            results.extend(self.process.call(self.service, work, unavailable).await);
        }
        results
    }

    /// Sends one message after another, as the adapter does: of a group, nothing behind what failed.
    async fn send_in_order(&self, messages: &[Message]) -> Vec<Result<(), ServiceError>> {
        let (mut results, mut failed) = (Vec::new(), BTreeSet::new());
        for message in messages {
            if failed.contains(&message.group) {
                results.push(Err(queue_unavailable()));
                continue;
            }
            let put = |message| self.put(message, Duration::ZERO);
            let sent = self.call_in_batches(slice::from_ref(message), put).await;
            if sent.iter().any(Result::is_err) {
                failed.insert(message.group.clone());
            }
            results.extend(sent);
        }
        results
    }

    async fn put(&self, message: &Message, delay: Duration) -> Result<(), ServiceError> {
        for sent in self.port.send_delayed(&[(message.clone(), delay)]).await {
            sent?;
        }
        let (invariants, now, by) = (
            self.process.invariants(),
            FakeClock.now(),
            self.process.name(),
        );
        if self.service == Service::Journal {
            invariants.journal_queued(message);
            return Ok(());
        }
        if matches!(self.service, Service::Events | Service::Ordered) {
            invariants.check_resent(message, &self.process);
        }
        let is_dead_letter = self.service == Service::DeadLetters;
        if is_dead_letter
            && message.reason(now).is_none()
            && matches!(by, "ingest" | "processor" | "recovery")
        {
            invariants.violate(&format!("{by} sends a dead letter without a reason"));
        }
        let is_undeliverable = is_dead_letter && matches!(by, "ingest" | "recovery");
        let is_renewed = self.service == Service::Events && by == "processor";
        invariants.queued_message(message, is_undeliverable, is_renewed);
        if invariants.queued_in(self.service, message, by) {
            let faults = self.process.faults();
            faults.count("events that left their conversation");
            if self.process.ran_without_faults() {
                invariants.check_departure(message);
            }
        }
        Ok(())
    }
}

impl Sender for Remote<FakeQueue> {
    async fn send(&self, message: &Message) -> Result<(), ServiceError> {
        self.call(self.put(message, Duration::ZERO)).await
    }

    async fn send_all(&self, messages: &[Message]) -> Vec<Result<(), ServiceError>> {
        if self.service == Service::Ordered {
            return self.send_in_order(messages).await;
        }
        let (invariants, number) = (self.process.invariants(), self.process.number());
        let is_journal = self.service == Service::Journal;
        if is_journal {
            invariants.journal_begins(number, messages);
        }
        let put = |message| self.put(message, Duration::ZERO);
        let sent = self.call_in_batches(messages, put).await;
        if is_journal {
            let failed = messages.iter().zip(&sent).filter(|(_, sent)| sent.is_err());
            invariants.journal_sent(number, failed.map(|(message, _)| message));
        }
        sent
    }

    async fn send_delayed(
        &self,
        messages: &[(Message, Duration)],
    ) -> Vec<Result<(), ServiceError>> {
        self.call_in_batches(messages, |(message, delay)| self.put(message, *delay))
            .await
    }
}

impl VisibilityTimeout for Remote<FakeQueue> {
    async fn change_visibility(
        &self,
        changes: &[(ReceiptHandle, Duration)],
    ) -> Vec<Result<(), ServiceError>> {
        let change = |change: &(ReceiptHandle, Duration)| {
            let change = change.clone();
            async move {
                self.port
                    .change_visibility(&[change])
                    .await
                    .pop()
                    .unwrap_or_else(|| Err(queue_unavailable()))
            }
        };
        self.call_in_batches(changes, change).await
    }
}

impl Receiver for Remote<FakeQueue> {
    async fn receive(
        &self,
        most: usize,
        visibility: Duration,
        wait: Duration,
    ) -> Result<Vec<ReceivedMessage>, ServiceError> {
        self.call(async {
            let received = self.port.receive(most, visibility, wait).await?;
            if self.service == Service::DeadLetters {
                self.process
                    .invariants()
                    .searched(&self.process, &self.port);
            }
            Ok(received)
        })
        .await
    }

    async fn delete(&self, receipts: &[ReceiptHandle]) -> Vec<Result<(), ServiceError>> {
        let delete = |receipt: &ReceiptHandle| {
            let receipt = receipt.clone();
            async move {
                self.port
                    .delete(&[receipt])
                    .await
                    .pop()
                    .unwrap_or_else(|| Err(queue_unavailable()))
            }
        };
        self.call_in_batches(receipts, delete).await
    }
}

impl Countable for Remote<FakeQueue> {
    async fn depth(&self) -> Result<QueueDepth, ServiceError> {
        self.call(self.port.depth()).await
    }

    async fn age(&self) -> Result<Option<Duration>, ServiceError> {
        self.call(self.port.age()).await
    }
}

impl Redrive for Remote<FakeQueue> {
    async fn start_move(&self, rate: Option<u32>) -> Result<(), ServiceError> {
        self.call(self.port.start_move(rate)).await
    }

    async fn latest_move(&self) -> Result<Option<MoveTask>, ServiceError> {
        self.call(self.port.latest_move()).await
    }

    async fn cancel_move(&self, handle: &str) -> Result<(), ServiceError> {
        self.call(self.port.cancel_move(handle)).await
    }
}

impl Remote<FakeTable> {
    async fn call<T>(
        &self,
        work: impl Future<Output = Result<T, ServiceError>>,
    ) -> Result<T, ServiceError> {
        self.process
            .call(self.service, work, table_unavailable)
            .await
    }
}

impl EventsTable for Remote<FakeTable> {
    async fn get(&self, id: &EventId) -> Result<Option<EventRecord>, ServiceError> {
        self.call(self.port.get(id)).await
    }

    async fn get_many(
        &self,
        ids: &[EventId],
    ) -> Result<BTreeMap<EventId, EventRecord>, ServiceError> {
        self.call(self.port.get_many(ids)).await
    }

    async fn write(&self, transition: &Transition) -> Result<Written, ServiceError> {
        self.call(async {
            let before = self.port.record(&transition.next().event_id);
            let written = self.port.write(transition).await?;
            if written == Written::Done {
                let is_dead = |record: &EventRecord| matches!(record.state, State::Dead(_));
                if transition.next().source != Source::Check
                    && is_dead(transition.next())
                    && !before.as_ref().is_some_and(is_dead)
                {
                    self.process.faults().count("events dead");
                }
                self.process.invariants().written(
                    &self.process,
                    before.as_ref(),
                    transition.next(),
                );
            }
            Ok(written)
        })
        .await
    }

    async fn forget(&self, forgetting: Forgetting<'_>) -> Result<Written, ServiceError> {
        self.call(self.port.forget(forgetting)).await
    }

    async fn keep_body(
        &self,
        id: &EventId,
        body: &[u8],
        now: Timestamp,
    ) -> Result<bool, ServiceError> {
        self.call(async {
            let kept = self.port.keep_body(id, body, now).await?;
            self.process.invariants().body_kept(id, body);
            Ok(kept)
        })
        .await
    }

    async fn body(&self, id: &EventId, now: Timestamp) -> Result<Option<Vec<u8>>, ServiceError> {
        self.call(self.port.body(id, now)).await
    }

    async fn delete_body(&self, id: &EventId) -> Result<(), ServiceError> {
        self.call(self.port.delete_body(id)).await
    }

    async fn take_back_body(&self, id: &EventId, kept_at: Timestamp) -> Result<(), ServiceError> {
        self.call(self.port.take_back_body(id, kept_at)).await
    }

    async fn dead_letters(
        &self,
        window: Window,
        after: Option<&Position>,
        limit: usize,
    ) -> Result<Page, ServiceError> {
        self.call(self.port.dead_letters(window, after, limit))
            .await
    }

    async fn waiting(
        &self,
        limit: usize,
        now: Timestamp,
    ) -> Result<(Vec<EventRecord>, bool), ServiceError> {
        self.call(self.port.waiting(limit, now)).await
    }

    async fn conversation(
        &self,
        conversation_id: &str,
        after: Option<&Position>,
        limit: usize,
    ) -> Result<ConversationPage, ServiceError> {
        self.call(async {
            let page = self.port.conversation(conversation_id, after, limit).await;
            let mut page = page?;
            // The index follows the table after a moment.
            let faults = self.process.faults();
            let lag = Duration::from_millis(faults.random(|rng| rng.u64(..INDEX_LAG)));
            let invariants = self.process.invariants();
            page.event_ids.retain(|id| !invariants.is_newer(id, lag));
            Ok(page)
        })
        .await
    }

    async fn scan(&self, after: Option<&str>, limit: usize) -> Result<ScannedPage, ServiceError> {
        self.call(self.port.scan(after, limit)).await
    }

    async fn erasures(&self) -> Result<Erasures, ServiceError> {
        self.call(self.port.erasures()).await
    }

    async fn save_erasures(&self, erasures: &Erasures) -> Result<(), ServiceError> {
        self.call(self.port.save_erasures(erasures)).await
    }

    async fn acquire(
        &self,
        what: LeaseName,
        lease: &RunLease,
        now: Timestamp,
    ) -> Result<Option<RunLease>, ServiceError> {
        self.call(self.port.acquire(what, lease, now)).await
    }

    async fn release(&self, what: LeaseName, owner: Uuid) -> Result<(), ServiceError> {
        self.call(self.port.release(what, owner)).await
    }

    async fn lease(
        &self,
        what: LeaseName,
        now: Timestamp,
    ) -> Result<Option<RunLease>, ServiceError> {
        self.call(self.port.lease(what, now)).await
    }

    async fn bulk_replay(&self) -> Result<Option<BulkReplay>, ServiceError> {
        self.call(self.port.bulk_replay()).await
    }

    async fn save_bulk_replay(&self, replay: &BulkReplay) -> Result<(), ServiceError> {
        self.call(self.port.save_bulk_replay(replay)).await
    }

    async fn background_run(
        &self,
        run_id: &str,
        now: Timestamp,
    ) -> Result<Option<BackgroundRun>, ServiceError> {
        self.call(self.port.background_run(run_id, now)).await
    }

    async fn save_background_run(
        &self,
        run: &BackgroundRun,
        from: Option<Uuid>,
        now: Timestamp,
    ) -> Result<bool, ServiceError> {
        self.call(self.port.save_background_run(run, from, now))
            .await
    }

    async fn statement(&self) -> Result<Option<StatementState>, ServiceError> {
        self.call(self.port.statement()).await
    }

    async fn save_statement(
        &self,
        state: &StatementState,
        from: Option<Uuid>,
    ) -> Result<bool, ServiceError> {
        self.call(self.port.save_statement(state, from)).await
    }

    async fn checkpoint(&self, source: &str) -> Result<Option<Checkpoint>, ServiceError> {
        self.call(self.port.checkpoint(source)).await
    }

    async fn save_checkpoint(
        &self,
        source: &str,
        checkpoint: &Checkpoint,
    ) -> Result<(), ServiceError> {
        self.call(self.port.save_checkpoint(source, checkpoint))
            .await
    }

    async fn count_attempts(
        &self,
        minute: Timestamp,
        attempts: &Attempts,
    ) -> Result<(), ServiceError> {
        self.call(self.port.count_attempts(minute, attempts)).await
    }

    async fn attempts(&self, minutes: &[Timestamp]) -> Result<Vec<Attempts>, ServiceError> {
        self.call(self.port.attempts(minutes)).await
    }

    async fn circuit(&self) -> Result<Option<Circuit>, ServiceError> {
        self.call(self.port.circuit()).await
    }

    async fn save_circuit(&self, circuit: &Circuit) -> Result<(), ServiceError> {
        self.call(self.port.save_circuit(circuit)).await
    }

    async fn canary_runs(&self) -> Result<CanaryRuns, ServiceError> {
        self.call(self.port.canary_runs()).await
    }

    async fn save_canary_runs(&self, runs: &CanaryRuns) -> Result<(), ServiceError> {
        self.call(self.port.save_canary_runs(runs)).await
    }
}

impl Archive for Remote<FakeArchive> {
    async fn put_new(&self, key: &str, object: Vec<u8>) -> Result<bool, ArchiveError> {
        self.archive_call(self.port.put_new(key, object)).await
    }

    async fn put(&self, key: &str, object: Vec<u8>) -> Result<(), ArchiveError> {
        let key = &self.process.invariants().stable_key(key);
        let work = async {
            let held = archive::read(&object)?;
            self.port.put(key, object).await?;
            if held
                .iter()
                .any(|line| CheckEvent::parse(line.body.as_bytes()).is_some())
            {
                let problem = format!("a check event is written to {key}");
                self.process.invariants().violate(&problem);
            }
            let named = |archived: archive::Archived| {
                (archived.event_id, label_of(archived.body.as_bytes()))
            };
            if !key.starts_with("journal/") {
                self.process
                    .invariants()
                    .archived(held.into_iter().map(named));
            }
            self.object_changed(key).await;
            Ok(())
        };
        self.archive_call(work).await
    }

    async fn get(&self, key: &str) -> Result<Vec<u8>, ArchiveError> {
        let key = self.process.invariants().stable_key(key);
        self.archive_call(self.port.get(&key)).await
    }

    async fn get_version(&self, key: &str, version: &str) -> Result<Vec<u8>, ArchiveError> {
        self.archive_call(self.port.get_version(key, version)).await
    }

    async fn list_keys(&self, prefix: &str, after: Option<&str>) -> Result<KeyPage, ArchiveError> {
        self.archive_call(self.port.list_keys(prefix, after)).await
    }

    async fn versions(
        &self,
        prefix: &str,
        after: Option<&VersionPosition>,
    ) -> Result<VersionPage, ArchiveError> {
        self.archive_call(self.port.versions(prefix, after)).await
    }

    async fn delete_version(&self, key: &str, version: &str) -> Result<(), ArchiveError> {
        let work = async {
            self.port.delete_version(key, version).await?;
            self.object_changed(key).await;
            Ok(())
        };
        self.archive_call(work).await
    }
}

impl Remote<FakeArchive> {
    /// Shows what a read of an object gives now.
    async fn object_changed(&self, key: &str) {
        let content = self.port.get(key).await.ok();
        let by = self.process.name();
        self.process
            .invariants()
            .object_changed(by, key, content.as_deref());
    }

    async fn archive_call<T>(
        &self,
        work: impl Future<Output = Result<T, ArchiveError>>,
    ) -> Result<T, ArchiveError> {
        let unavailable = || Err(service::Service::S3.unavailable("injected fault").into());
        self.process.call(self.service, work, unavailable).await
    }
}

impl SecretStore for Remote<FakeSecretStore> {
    async fn read(&self) -> Result<String, SecretsError> {
        let unavailable = || {
            Err(service::Service::SecretsManager
                .unavailable("injected fault")
                .into())
        };
        self.process
            .call(self.service, self.port.read(), unavailable)
            .await
    }
}
