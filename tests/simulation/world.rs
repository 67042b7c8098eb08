//! World of a run: services, functions, their processes, and their triggers.

mod breaker;
mod journal;
mod order;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use genesys_relay::dead_letters::{self, DeadLetters, OrderedQueues, Ports, ReplayError, Settings};
use genesys_relay::deliver::{self, Backoff, Processor};
use genesys_relay::domain::event::EventId;
use genesys_relay::domain::event_record::State;
use genesys_relay::domain::message::Message;
use genesys_relay::ingest::{self, Accepted, Ingest, Refusal};
use genesys_relay::ports::clock::Clock as _;
use genesys_relay::ports::event_queues::EventQueues;
use genesys_relay::ports::events_table::{Checkpoint, EventsTable as _};
use genesys_relay::ports::queue::{ReceivedMessage, Receiver as _, Sender as _};
use genesys_relay::ports::secrets::SecretCache;
use genesys_relay::recover::{self, Recover};
use genesys_relay::testing::{FakeArchive, FakeClock, FakeQueue, FakeSecretStore, FakeTable};
use http::HeaderMap;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::credentials::{IdentityProvider, RelayClient, target_secret};
use crate::faults::{Crashed, FaultPlan, Process, Service};
use crate::genesys::{LOG, Log, RemoteLog};
use crate::invariants::Invariants;
use crate::lock;
use crate::mapping::Mapping;
use crate::ports::{Remote, SkewedClock};
use crate::scenario::{Kind, OrderMode, Scenario, Sent};
use crate::target::{Busy, SimTarget};
use crate::world::order::Line;

/// Time-outs of the functions and of their SDK calls, as in the template and in `main.rs` of each.
const INGEST_TIME: Duration = Duration::from_secs(9);
const INGEST_CALL: Duration = Duration::from_secs(4);
const PROCESSOR_CALL: Duration = Duration::from_secs(3);
const REPLAY_TIME: Duration = Duration::from_mins(15);
const RECOVERY_TIME: Duration = Duration::from_secs(290);
const OPERATOR_CALL: Duration = Duration::from_secs(6);

const SECRETS_KEPT: Duration = Duration::from_mins(5);
const OVERLAP: SignedDuration = SignedDuration::from_mins(15);

const EVENTS_KEPT: SignedDuration = SignedDuration::from_hours(10 * 24);
const DEAD_LETTERS_KEPT: SignedDuration = SignedDuration::from_hours(14 * 24);

/// Allowance for the skew of clocks and the duration of calls.
const SLACK: SignedDuration = SignedDuration::from_secs(6);

type TheIngest = Ingest<RemotePorts>;
type TheProcessor = Processor<RemotePorts>;

/// Ports over the network.
struct RemotePorts;

impl ingest::PortTypes for RemotePorts {
    type Events = EventQueues<Remote<FakeQueue>>;
    type DeadLetters = Remote<FakeQueue>;
    type Secrets = Remote<FakeSecretStore>;
    type Clock = SkewedClock;
}

impl deliver::PortTypes for RemotePorts {
    type Events = Remote<FakeQueue>;
    type DeadLetters = Remote<FakeQueue>;
    type Table = Remote<FakeTable>;
    type Target = SimTarget;
    type Clock = SkewedClock;
}

impl recover::PortTypes for RemotePorts {
    type Log = RemoteLog;
    type Events = Remote<FakeQueue>;
    type DeadLetters = Remote<FakeQueue>;
    type Table = Remote<FakeTable>;
    type Clock = SkewedClock;
}

impl dead_letters::PortTypes for RemotePorts {
    type Events = EventQueues<Remote<FakeQueue>>;
    type DeadLetters = Remote<FakeQueue>;
    type Redrive = Remote<FakeQueue>;
    type Table = Remote<FakeTable>;
    type Archive = Remote<FakeArchive>;
    type Clock = SkewedClock;
}

/// Warm instance of a function.
struct Warm<F> {
    process: Process,
    function: Arc<F>,
    /// `Order` when it started. A change of the stack replaces all instances.
    mode: OrderMode,
}

/// Takes a warm instance that started with this `Order`.
fn warm<F>(instances: &Mutex<Vec<Warm<F>>>, mode: OrderMode) -> Option<Warm<F>> {
    let mut instances = lock(instances);
    instances.retain(|instance| instance.mode == mode);
    instances.pop()
}

pub(crate) struct World {
    pub(crate) scenario: Scenario,
    pub(crate) faults: Arc<FaultPlan>,
    pub(crate) invariants: Arc<Invariants>,
    pub(crate) events: FakeQueue,
    pub(crate) dead_letters: FakeQueue,
    pub(crate) line: Line,
    pub(crate) journal: FakeQueue,
    pub(crate) table: FakeTable,
    pub(crate) mapping: Mapping,
    pub(crate) archive: FakeArchive,
    pub(crate) log: Log,
    store: FakeSecretStore,
    /// The part of the secret for the target, where it asks for credentials.
    target_store: FakeSecretStore,
    provider: Option<Arc<IdentityProvider>>,
    secret: Mutex<&'static str>,
    poison: Arc<BTreeSet<String>>,
    busy: Busy,
    rng: Mutex<fastrand::Rng>,
    ingests: Mutex<Vec<Warm<TheIngest>>>,
    processors: Mutex<Vec<Warm<TheProcessor>>>,
}

const SECRETS: [&str; 2] = ["the-first-secret-0001", "the-second-secret-0002"];

impl World {
    pub(crate) fn new(scenario: Scenario, verbose: bool) -> Arc<Self> {
        let (events, dead_letters) = (FakeQueue::default(), FakeQueue::default());
        let dead_letters = dead_letters
            .keeping_for(DEAD_LETTERS_KEPT)
            .moving_to(&events);
        let events = events
            .keeping_for(EVENTS_KEPT)
            .redriving_to(&dead_letters, scenario.max_receives);
        if scenario.disorder {
            events.disorder(scenario.seed ^ 0x0e7e);
            dead_letters.disorder(scenario.seed ^ 0xdead);
        }
        let journal = FakeQueue::default().keeping_for(DEAD_LETTERS_KEPT);
        if scenario.disorder {
            journal.disorder(scenario.seed ^ 0x7042);
        }
        let table = FakeTable::default();
        let mapping = Mapping::new(scenario.concurrency);
        let line = Line::new(&scenario);
        let invariants = Arc::new(Invariants::new(
            &scenario,
            verbose,
            [&events, &dead_letters, &line.queue, &line.dead_letters],
            &table,
        ));
        let poison = scenario
            .events
            .iter()
            .filter(|sent| sent.poison && sent.kind != Kind::Malformed)
            .map(Sent::label);
        Arc::new(Self {
            faults: Arc::new(FaultPlan::new(&scenario)),
            poison: Arc::new(poison.collect()),
            busy: Busy::default(),
            invariants,
            events,
            dead_letters,
            line,
            journal,
            table,
            mapping,
            archive: FakeArchive::default(),
            log: Log::default(),
            store: FakeSecretStore::holding(&json!({ "webhookSecrets": [SECRETS[0]] })),
            target_store: FakeSecretStore::holding(&target_secret(0)),
            provider: scenario
                .credentials
                .clone()
                .map(|plan| Arc::new(IdentityProvider::new(plan))),
            secret: Mutex::new(SECRETS[0]),
            rng: Mutex::new(fastrand::Rng::with_seed(scenario.seed ^ 0x0b1d)),
            ingests: Mutex::default(),
            processors: Mutex::default(),
            scenario,
        })
    }

    /// Saves the checkpoint that the recovery has after its first run.
    pub(crate) async fn deploy(&self) {
        let checkpoint = Checkpoint {
            cursor: FakeClock.now(),
            span_seconds: 3600,
            resume: None,
        };
        // The table is in memory and has no faults here.
        drop(self.table.save_checkpoint(LOG, &checkpoint).await);
    }

    /// Gives the relay the target's new secrets, each when an operator has noticed it.
    pub(crate) async fn rotate_target_secret(self: Arc<Self>) {
        if let Some(provider) = &self.provider {
            Arc::clone(provider)
                .keep_current(self.target_store.clone())
                .await;
        }
    }

    pub(crate) fn random<T>(&self, choose: impl FnOnce(&mut fastrand::Rng) -> T) -> T {
        choose(&mut lock(&self.rng))
    }

    /// Secret of the senders.
    pub(crate) fn secret(&self) -> String {
        (*lock(&self.secret)).to_owned()
    }

    pub(crate) fn is_poison(&self, label: &str) -> bool {
        self.poison.contains(label)
    }

    /// Event id of a message, by its record.
    pub(crate) fn id_of(&self, message: &Message, sent_at: Timestamp) -> EventId {
        let id = message.identity(sent_at).0;
        let other = || {
            self.table
                .record(&id)?
                .other_event(&message.to_event(sent_at).ok()?, FakeClock.now())
        };
        other().unwrap_or(id)
    }

    fn process(&self, name: &'static str, call_timeout: Duration) -> Process {
        Process::new(name, &self.faults, &self.invariants, call_timeout)
    }

    fn clock(&self) -> SkewedClock {
        SkewedClock(self.random(|rng| self.scenario.skew(rng)))
    }

    /// Rotates the secret by the documented steps: new secret beside the old one, ten seconds, the
    /// sender, removal of the old one.
    pub(crate) async fn rotate_secret(self: Arc<Self>, after: Duration) {
        sleep(after).await;
        self.store.hold(&json!({ "webhookSecrets": SECRETS }));
        sleep(Duration::from_secs(10)).await;
        *lock(&self.secret) = SECRETS[1];
        sleep(Duration::from_mins(2)).await;
        self.store.hold(&json!({ "webhookSecrets": [SECRETS[1]] }));
    }

    /// Posts a webhook; `None` where no answer arrived.
    pub(crate) async fn post(
        &self,
        sent: &Sent,
        headers: &HeaderMap,
        body: &[u8],
    ) -> Option<Result<Accepted, Refusal>> {
        self.invariants.requested(&sent.label());
        let answer = self.serve(headers, body).await?;
        match &answer {
            Ok(Accepted { id, .. }) | Err(Refusal::NotJson { kept_as: id, .. }) => {
                self.invariants.accepted(id, sent);
            }
            Err(_) => {}
        }
        (!self
            .faults
            .should_fail(self.scenario.throttled_per_thousand / 2))
        .then_some(answer)
    }

    /// Serves a webhook; `None` where no answer arrived.
    pub(crate) async fn serve(
        &self,
        headers: &HeaderMap,
        body: &[u8],
    ) -> Option<Result<Accepted, Refusal>> {
        let mode = self.line.mode();
        let instance = warm(&self.ingests, mode).unwrap_or_else(|| {
            let process = self.process("ingest", INGEST_CALL);
            let store = Remote {
                port: self.store.clone(),
                service: Service::Secrets,
                process: process.clone(),
            };
            let clock = self.clock();
            let ports = ingest::Ports {
                events: self.event_queues(&process),
                dead_letters: remote(&process, &self.dead_letters, Service::DeadLetters),
                secrets: SecretCache::new(store, SECRETS_KEPT, clock),
                clock,
            };
            let function = Ingest {
                ports,
                rng: Mutex::new(fastrand::Rng::with_seed(self.random(|rng| rng.u64(..)))),
            };
            Warm {
                process,
                function: Arc::new(function),
                mode,
            }
        });
        let work = instance.function.ingest(headers, body, None);
        let answer = instance.process.invoke(INGEST_TIME, work).await;
        self.invariants.check_nothing_lost();
        let answer = answer.ok()?;
        lock(&self.ingests).push(instance);
        Some(answer)
    }

    /// Puts an event into the events queue as a rule of EventBridge does, which retries until it
    /// succeeds.
    pub(crate) async fn publish(&self, sent: &Sent, body: &[u8]) {
        let message = Message {
            body: String::from_utf8_lossy(body).into_owned(),
            attributes: BTreeMap::default(),
            group: None,
            trace: None,
        };
        let id = message.identity(FakeClock.now()).0;
        self.invariants.requested(&sent.label());
        self.invariants.queued_message(&message, false, false);
        // The table is in memory and has no faults here.
        drop(self.events.send(&message).await);
        self.invariants.accepted(&id, sent);
    }

    /// Runs the event source mapping of the events queue.
    pub(crate) async fn map(self: Arc<Self>) {
        let (queue, mapping) = (self.events.clone(), self.mapping.clone());
        loop {
            Arc::clone(&self).map_batch(&queue, &mapping).await;
        }
    }

    /// Runs the event source mapping of the ordered queue, while the stack has one.
    pub(crate) async fn map_ordered(self: Arc<Self>) {
        let (queue, mapping) = (self.line.queue.clone(), self.line.mapping.clone());
        loop {
            self.line.until_on().await;
            Arc::clone(&self).map_batch(&queue, &mapping).await;
        }
    }

    /// Receives a batch, invokes the processor, and deletes what it did not report as failed.
    async fn map_batch(self: Arc<Self>, queue: &FakeQueue, mapping: &Mapping) {
        let permit = mapping.permit().await;
        queue.until_visible().await;
        if !mapping.is_enabled() {
            return;
        }
        let records = queue.hand_out(self.scenario.batch, self.scenario.visibility());
        self.invariants.check_nothing_lost();
        if records.is_empty() {
            return;
        }
        if self
            .faults
            .should_fail(self.scenario.throttled_per_thousand)
        {
            self.faults.count("batches throttled");
            self.disturb(&records);
            return;
        }
        let (world, queue) = (Arc::clone(&self), queue.clone());
        tokio::spawn(async move {
            world.deliver(records, &queue).await;
            drop(permit);
        });
    }

    async fn deliver(&self, records: Vec<ReceivedMessage>, queue: &FakeQueue) {
        let _running = self.invariants.processor_begins(false);
        let instance = match warm(&self.processors, self.line.mode()) {
            Some(warm) => warm,
            None => self.start_processor("processor").await,
        };
        let Warm {
            process, function, ..
        } = &instance;
        let (began, time) = (Instant::now(), self.scenario.processor_time);
        self.count_conversations(&records);
        let work = async {
            function
                .process(records.clone(), Instant::now() + time)
                .await
        };
        let answer = process.invoke(time, work).await;
        self.invariants
            .journal_ended(process.number(), answer.is_ok());
        if answer.is_err() && process.ran_without_faults() && began.elapsed() >= time {
            self.invariants.violate(
                "the processor is killed at its time-out although nothing but the journal failed",
            );
        }
        // The processor gives up tasks that still run 1½ s before its time-out.
        if answer.is_err()
            || !process.ran_without_faults()
            || began.elapsed() + Duration::from_secs(2) >= time
        {
            self.disturb(&records);
        }
        if let Ok(kept) = answer {
            let (kept, done): (Vec<_>, Vec<_>) = records
                .into_iter()
                .partition(|record| kept.contains(&record.message_id));
            for record in &done {
                let receipt = record.receipt.clone();
                if self
                    .faults
                    .should_fail(self.scenario.throttled_per_thousand / 2)
                {
                    self.faults.count("deletes lost");
                    self.disturb(std::slice::from_ref(record));
                } else {
                    drop(queue.delete(&[receipt]).await);
                }
            }
            self.check_visibility(&kept, queue);
            lock(&self.processors).push(instance);
        }
        self.invariants.check_nothing_lost();
    }

    /// Notes that faults may have hidden the outcome of these messages.
    fn disturb(&self, records: &[ReceivedMessage]) {
        for record in records {
            let Ok(event) = record.message.to_event(record.sent_at) else {
                continue;
            };
            // Also under the id that it gets where another body has its own.
            if let Some(digest) = event.digest() {
                self.invariants.disturbed(event.id.with_body(&digest));
            }
            self.invariants.disturbed(event.id);
        }
    }

    /// Checks that kept messages become visible at their next attempt, and at most after the
    /// longest backoff.
    fn check_visibility(&self, kept: &[ReceivedMessage], queue: &FakeQueue) {
        let (now, wall) = (Instant::now(), FakeClock.now());
        let mut groups = BTreeMap::new();
        for record in kept {
            let Some(at) = queue.visible_at(&record.receipt) else {
                continue;
            };
            let id = self.id_of(&record.message, record.sent_at);
            if record.is_ordered {
                let group = record.message.group.as_deref().unwrap_or_default();
                let is_first = !groups.contains_key(group);
                let first = *groups.entry(group).or_insert(at);
                if !self.invariants.is_disturbed(&id) {
                    self.invariants.check_visible_together(group, first, at);
                }
                if !is_first {
                    continue;
                }
            }
            let hidden =
                SignedDuration::try_from(at.saturating_duration_since(now)).unwrap_or_default();
            if hidden > SignedDuration::from_hours(1) + SignedDuration::from_mins(10) {
                self.invariants
                    .violate(&format!("the message of {id} is hidden for {hidden}"));
            }
            // Without faults the message becomes visible when its record says, unless this is its
            // last receive or the record is about a copy of the event.
            let is_last = !record.is_ordered && record.receive_count >= self.scenario.max_receives;
            if let Some(State::Retrying { next_attempt_at }) =
                self.table.record(&id).map(|record| record.state)
                && !self.scenario.disorder
                && !self.invariants.is_disturbed(&id)
                && !is_last
            {
                // Not earlier; later by at most the time of the batch, as the timeout is set at its
                // end.
                let early = next_attempt_at.duration_since(wall) - hidden;
                let latest =
                    SignedDuration::try_from(self.scenario.processor_time).unwrap_or_default();
                if !(-latest..SLACK).contains(&early) {
                    self.invariants.violate(&format!(
                        "the message of {id} is visible {early} before its next attempt"
                    ));
                }
            }
        }
    }

    /// Starts a process, which takes its time.
    async fn start_processor(&self, name: &'static str) -> Warm<TheProcessor> {
        let longest = self.scenario.longest_start;
        if !longest.is_zero() {
            sleep(longest.mul_f64(self.random(fastrand::Rng::f64))).await;
        }
        self.processor(name)
    }

    fn processor(&self, name: &'static str) -> Warm<TheProcessor> {
        let process = self.process(name, PROCESSOR_CALL);
        let (clock, order) = (self.clock(), self.order());
        let ports = deliver::Ports {
            events: remote(&process, &self.events, Service::Events),
            ordered: self.ordered_source(&process),
            dead_letters: remote(&process, &self.dead_letters, Service::DeadLetters),
            journal: self.journal_queue(&process),
            table: Remote {
                port: self.table.clone(),
                service: Service::Table,
                process: process.clone(),
            },
            target: SimTarget {
                process: process.clone(),
                poison: Arc::clone(&self.poison),
                refusals_per_thousand: self.scenario.refusals_per_thousand,
                busy: Arc::clone(&self.busy),
                mapping: self.mapping.clone(),
                keeps_order: order.is_some(),
                credentials: self.provider.as_ref().map(|provider| {
                    let store = Remote {
                        port: self.target_store.clone(),
                        service: Service::Secrets,
                        process: process.clone(),
                    };
                    let secrets = SecretCache::new(store, SECRETS_KEPT, clock);
                    RelayClient::new(provider, secrets, clock, &process)
                }),
            },
            clock,
        };
        let rng = fastrand::Rng::with_seed(self.random(|rng| rng.u64(..)));
        let function = Processor::new(ports, Backoff::with_rng(self.scenario.schedule(), rng))
            .with_pace(self.scenario.pace())
            .with_order(order);
        Warm {
            process,
            function: Arc::new(function),
            mode: self.line.mode(),
        }
    }

    /// Invokes the replay function; `Err` where it crashed.
    pub(crate) async fn replay(
        &self,
        request: &Value,
    ) -> Result<Result<dead_letters::Answer, ReplayError>, Crashed> {
        let process = self.process(action(request), OPERATOR_CALL);
        self.replay_by(&process, request).await
    }

    async fn replay_by(
        &self,
        process: &Process,
        request: &Value,
    ) -> Result<Result<dead_letters::Answer, ReplayError>, Crashed> {
        if request["action"] == "discard" {
            let ids = request["eventIds"].as_array().into_iter().flatten();
            let ids = ids.filter_map(|id| id.as_str()?.parse().ok());
            self.invariants.discard_requested(ids);
        }
        let request = Self::parse(request);
        let function = self.dead_letters_of(process);
        let handled = Box::pin(function.handle(request, Instant::now() + REPLAY_TIME));
        let answer = process.invoke(REPLAY_TIME, handled).await;
        if let Ok(Ok(answer)) = &answer {
            let answer = json!(answer);
            for (field, name) in DONE {
                if answer[field].as_u64().is_some_and(|count| count > 0) {
                    self.faults.count(name);
                }
            }
            let items = ["items", "events"].map(|field| answer[field].as_array());
            let ids = items.into_iter().flatten().flatten();
            self.invariants
                .check_listed(ids.filter_map(|item| item["eventId"].as_str()));
        }
        self.invariants.note(|| match &answer {
            Ok(Ok(answer)) => format!("{}: {}", process.name(), json!(answer)),
            Ok(Err(error)) => format!("{}: {error}", process.name()),
            Err(Crashed) => format!("{} crashed", process.name()),
        });
        self.invariants.check_nothing_lost();
        answer
    }

    fn parse(request: &Value) -> dead_letters::Request {
        dead_letters::Request::parse(request.clone(), "an operator").expect("a request")
    }

    /// The replay function of a process.
    fn dead_letters_of(&self, process: &Process) -> DeadLetters<RemotePorts> {
        let remote = |queue: &FakeQueue, service| remote(process, queue, service);
        let mode = match self.line.mode() {
            OrderMode::None => None,
            OrderMode::Conversation => Some(dead_letters::OrderMode::Conversation),
            OrderMode::Draining => Some(dead_letters::OrderMode::Draining),
        };
        let ports = Ports {
            events: self.event_queues(process),
            ordered: mode.map(|mode| OrderedQueues {
                mode,
                queue: remote(&self.line.queue, Service::Ordered),
                dead_letters: remote(&self.line.dead_letters, Service::DeadLetters),
            }),
            dead_letters: remote(&self.dead_letters, Service::DeadLetters),
            journal: self.journal_queue(process),
            redrive: remote(&self.dead_letters, Service::DeadLetters),
            table: Remote {
                port: self.table.clone(),
                service: Service::Table,
                process: process.clone(),
            },
            archive: Remote {
                port: self.archive.clone(),
                service: Service::Archive,
                process: process.clone(),
            },
            clock: self.clock(),
        };
        DeadLetters {
            ports,
            settings: Settings {
                processor_timeout: self.scenario.processor_time,
                ..Settings::default()
            },
        }
    }

    /// Runs the recovery from its checkpoint.
    pub(crate) async fn recover(&self) -> Result<bool, Crashed> {
        let clock = self.clock();
        let request =
            recover::Request::parse(json!({}), "a schedule", clock_now(clock)).expect("a request");
        let process = self.process("recovery", OPERATOR_CALL);
        let ports = recover::Ports {
            log: RemoteLog {
                log: self.log.clone(),
                process: process.clone(),
            },
            events: remote(&process, &self.events, Service::Events),
            dead_letters: remote(&process, &self.dead_letters, Service::DeadLetters),
            table: Remote {
                port: self.table.clone(),
                service: Service::Table,
                process: process.clone(),
            },
            clock,
        };
        let function = Recover::<RemotePorts> {
            ports,
            overlap: OVERLAP,
        };
        let work = async {
            function
                .recover(&request, Instant::now() + RECOVERY_TIME)
                .await
        };
        let report = process.invoke(RECOVERY_TIME, work).await?;
        self.invariants.note(|| match &report {
            Ok(report) => format!("recovery: {}", json!(report)),
            Err(failed) => format!("recovery: {}", failed.error),
        });
        self.invariants.check_nothing_lost();
        Ok(report.is_ok_and(|report| report.complete))
    }
}

/// Counts of the answers, and the name of runs with a count above zero.
const DONE: [(&str, &str); 4] = [
    ("replayed", "runs that replayed"),
    ("archived", "runs that archived"),
    ("restored", "runs that restored"),
    ("discarded", "runs that discarded"),
];

/// Name of the replay function's process for a request.
fn action(request: &Value) -> &'static str {
    const ACTIONS: [&str; 8] = [
        "replay",
        "reconcile",
        "archive",
        "restore",
        "discard",
        "journal",
        "resend",
        "erase",
    ];
    let is_dry = request["dryRun"] == true;
    let mut actions = ACTIONS.into_iter().filter(|_| !is_dry);
    actions
        .find(|action| request["action"] == *action)
        .unwrap_or("look")
}

fn clock_now(clock: SkewedClock) -> jiff::Timestamp {
    genesys_relay::ports::clock::Clock::now(&clock)
}

/// A queue as a process reaches it.
fn remote(process: &Process, queue: &FakeQueue, service: Service) -> Remote<FakeQueue> {
    Remote {
        port: queue.clone(),
        service,
        process: process.clone(),
    }
}
