//! Everything there is in a run: the services, the functions and their processes, and what starts them.

mod breaker;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use genesys_relay::dead_letters::{self, DeadLetters, PortTypes, Ports, ReplayError};
use genesys_relay::deliver::{AttemptCounter, Processor, ReceivedMessage};
use genesys_relay::domain::event::EventId;
use genesys_relay::domain::event_record::State;
use genesys_relay::domain::message::Message;
use genesys_relay::ingest::{Accepted, Ingest, Refusal};
use genesys_relay::ports::clock::Clock as _;
use genesys_relay::ports::events_table::{Checkpoint, EventsTable as _};
use genesys_relay::ports::queue::{Receiver as _, Sender as _};
use genesys_relay::ports::secrets::{SecretCache, SenderSecrets};
use genesys_relay::recover::{self, Recover};
use genesys_relay::testing::{FakeArchive, FakeClock, FakeQueue, FakeSecretStore, FakeTable};
use http::HeaderMap;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::faults::{Died, FaultPlan, Process, Service};
use crate::genesys::{LOG, Log, RemoteLog};
use crate::law::Invariants;
use crate::lock;
use crate::mapping::Mapping;
use crate::ports::{Remote, SkewedClock};
use crate::scenario::{Kind, Scenario, Sent};
use crate::target::{Busy, SimTarget};

/// The functions' time-outs, and when their SDK gives up on a call, as the template and `main.rs` of each have it.
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

/// Clocks differ, and calls take a while.
const SLACK: SignedDuration = SignedDuration::from_secs(6);

/// One in so many batches is throttled: received, and handed to nobody.
const THROTTLED_PER_THOUSAND: u32 = 20;

/// One in so many messages that were acknowledged is not deleted, or an answer of ingest does not arrive.
const UNHEARD_PER_THOUSAND: u32 = 10;

type TheIngest = Ingest<Remote<FakeQueue>, Remote<FakeQueue>, Remote<FakeSecretStore>, SkewedClock>;
type TheProcessor = Processor<Remote<FakeQueue>, Remote<FakeQueue>, Remote<FakeTable>, SimTarget, SkewedClock>;

/// Ports of the dead letters over the network.
struct RemotePorts;

impl PortTypes for RemotePorts {
    type Events = Remote<FakeQueue>;
    type DeadLetters = Remote<FakeQueue>;
    type Redrive = Remote<FakeQueue>;
    type Table = Remote<FakeTable>;
    type Archive = Remote<FakeArchive>;
    type Clock = SkewedClock;
}

/// An instance of a function, warm.
struct Warm<F> {
    process: Process,
    function: Arc<F>,
}

pub(crate) struct World {
    pub(crate) scenario: Scenario,
    pub(crate) weather: Arc<FaultPlan>,
    pub(crate) law: Arc<Invariants>,
    pub(crate) events: FakeQueue,
    pub(crate) dead_letters: FakeQueue,
    pub(crate) table: FakeTable,
    pub(crate) mapping: Mapping,
    pub(crate) archive: FakeArchive,
    pub(crate) log: Log,
    store: FakeSecretStore,
    secret: Mutex<&'static str>,
    poison: Arc<BTreeSet<String>>,
    busy: Busy,
    rng: Mutex<fastrand::Rng>,
    ingests: Mutex<Vec<Warm<TheIngest>>>,
    processors: Mutex<Vec<Warm<TheProcessor>>>,
}

const SECRETS: [&str; 2] = ["the-first-secret-0001", "the-second-secret-0002"];

impl World {
    pub(crate) fn new(scenario: Scenario, speaks: bool) -> Arc<Self> {
        let (events, dead_letters) = (FakeQueue::default(), FakeQueue::default());
        let dead_letters = dead_letters.keeping_for(DEAD_LETTERS_KEPT).moving_to(&events);
        let events = events.keeping_for(EVENTS_KEPT).redriving_to(&dead_letters, scenario.max_receives);
        if scenario.disorder {
            events.disorder(scenario.seed ^ 0x0e7e);
            dead_letters.disorder(scenario.seed ^ 0xdead);
        }
        let table = FakeTable::default();
        let mapping = Mapping::new(scenario.concurrency);
        let law = Arc::new(Invariants::new(&scenario, speaks, &events, &dead_letters, &table));
        let poison = scenario.events.iter().filter(|sent| sent.poison && sent.kind != Kind::Malformed).map(Sent::label);
        Arc::new(Self {
            weather: Arc::new(FaultPlan::new(&scenario)),
            poison: Arc::new(poison.collect()),
            busy: Busy::default(),
            law,
            events,
            dead_letters,
            table,
            mapping,
            archive: FakeArchive::default(),
            log: Log::default(),
            store: FakeSecretStore::holding(&json!({ "webhookSecrets": [SECRETS[0]] })),
            secret: Mutex::new(SECRETS[0]),
            rng: Mutex::new(fastrand::Rng::with_seed(scenario.seed ^ 0x0b1d)),
            ingests: Mutex::default(),
            processors: Mutex::default(),
            scenario,
        })
    }

    /// The recovery begins when the stack does: its first run was in good weather.
    pub(crate) async fn deploy(&self) {
        let checkpoint = Checkpoint { cursor: FakeClock.now(), span_seconds: 3600, resume: None };
        // In memory, and told to work.
        drop(self.table.save_checkpoint(LOG, &checkpoint).await);
    }

    pub(crate) fn dice<T>(&self, throw: impl FnOnce(&mut fastrand::Rng) -> T) -> T {
        throw(&mut lock(&self.rng))
    }

    /// What senders prove themselves with now.
    pub(crate) fn secret(&self) -> String {
        (*lock(&self.secret)).to_owned()
    }

    pub(crate) fn is_poison(&self, label: &str) -> bool {
        self.poison.contains(label)
    }

    /// The event that a message stands for, by what the table knows.
    pub(crate) fn id_of(&self, message: &Message, sent_at: Timestamp) -> EventId {
        let id = message.identity(sent_at).0;
        let other = || self.table.record(&id)?.other_event(&message.to_event(sent_at).ok()?, FakeClock.now());
        other().unwrap_or(id)
    }

    fn process(&self, name: &'static str, call_timeout: Duration) -> Process {
        Process::new(name, &self.weather, &self.law, call_timeout)
    }

    fn clock(&self) -> SkewedClock {
        SkewedClock(self.dice(|rng| self.scenario.skew(rng)))
    }

    /// As the README has it: the new secret beside the old one, ten seconds, the sender, and then the old one goes.
    pub(crate) async fn rotate_secret(self: Arc<Self>, after: Duration) {
        sleep(after).await;
        self.store.hold(&json!({ "webhookSecrets": SECRETS }));
        sleep(Duration::from_secs(10)).await;
        *lock(&self.secret) = SECRETS[1];
        sleep(Duration::from_mins(2)).await;
        self.store.hold(&json!({ "webhookSecrets": [SECRETS[1]] }));
    }

    /// Posts a webhook; nothing where no answer came.
    pub(crate) async fn post(
        &self,
        sent: &Sent,
        headers: &HeaderMap,
        body: &[u8],
    ) -> Option<Result<Accepted, Refusal>> {
        self.law.requested(&sent.label());
        let instance = lock(&self.ingests).pop();
        let Warm { process, function } = instance.unwrap_or_else(|| {
            let process = self.process("ingest", INGEST_CALL);
            let remote = |queue: &FakeQueue, service| Remote { port: queue.clone(), service, process: process.clone() };
            let store = Remote { port: self.store.clone(), service: Service::Secrets, process: process.clone() };
            let clock = self.clock();
            let function = Ingest {
                events: remote(&self.events, Service::Events),
                dead_letters: remote(&self.dead_letters, Service::DeadLetters),
                secrets: SecretCache::<_, SenderSecrets, _>::new(store, SECRETS_KEPT, clock),
                clock,
                rng: Mutex::new(fastrand::Rng::with_seed(self.dice(|rng| rng.u64(..)))),
            };
            Warm { process, function: Arc::new(function) }
        });
        let answer = process.invoke(INGEST_TIME, function.ingest(headers, body, None)).await;
        self.law.account();
        let answer = answer.ok()?;
        lock(&self.ingests).push(Warm { process, function });
        match &answer {
            Ok(Accepted { id, .. }) | Err(Refusal::NotJson { kept_as: id, .. }) => self.law.accepted(id, sent),
            Err(_) => {}
        }
        (!self.weather.strikes(UNHEARD_PER_THOUSAND)).then_some(answer)
    }

    /// A rule of EventBridge puts an event into the events queue, and tries for as long as it takes.
    pub(crate) async fn publish(&self, sent: &Sent, body: &[u8]) {
        let message = Message {
            body: String::from_utf8_lossy(body).into_owned(),
            attributes: std::collections::BTreeMap::default(),
            group: None,
            trace: None,
        };
        let id = message.identity(FakeClock.now()).0;
        self.law.requested(&sent.label());
        self.law.entered(&message, false);
        // In memory, and told to work.
        drop(self.events.send(&message).await);
        self.law.accepted(&id, sent);
    }

    /// The event source mapping: receives, invokes, and deletes what was not reported as failed.
    pub(crate) async fn map(self: Arc<Self>) {
        loop {
            let leave = self.mapping.leave().await;
            self.events.until_visible().await;
            if !self.mapping.is_enabled() {
                continue;
            }
            let records = self.events.hand_out(self.scenario.batch, self.scenario.visibility());
            self.law.account();
            if records.is_empty() {
                continue;
            }
            if self.weather.strikes(THROTTLED_PER_THOUSAND) {
                self.weather.count("batches throttled");
                self.disturb(&records);
                continue;
            }
            let world = Arc::clone(&self);
            tokio::spawn(async move {
                world.deliver(records).await;
                drop(leave);
            });
        }
    }

    async fn deliver(&self, records: Vec<ReceivedMessage>) {
        let instance = lock(&self.processors).pop();
        let Warm { process, function } = instance.unwrap_or_else(|| self.processor("processor"));
        let (began, time) = (Instant::now(), self.scenario.processor_time);
        let work = async { function.process(records.clone(), Instant::now() + time).await };
        let answer = process.invoke(time, work).await;
        // What still runs 1½ s before the end is given up.
        if answer.is_err() || !process.was_lucky() || began.elapsed() + Duration::from_secs(2) >= time {
            self.disturb(&records);
        }
        if let Ok(kept) = answer {
            let (kept, done): (Vec<_>, Vec<_>) =
                records.into_iter().partition(|record| kept.contains(&record.message_id));
            for record in &done {
                let Some(receipt) = record.receipt.clone() else { continue };
                if self.weather.strikes(UNHEARD_PER_THOUSAND) {
                    self.weather.count("deletes lost");
                    self.disturb(std::slice::from_ref(record));
                } else {
                    drop(self.events.delete(&[receipt]).await);
                }
            }
            self.check_visibility(&kept);
            lock(&self.processors).push(Warm { process, function });
        }
        self.law.account();
    }

    /// Something got between these messages and what the processor would have said of them.
    fn disturb(&self, records: &[ReceivedMessage]) {
        for record in records {
            let Ok(event) = record.message.to_event(record.sent_at) else { continue };
            // Also under the id that it has where another body had its own first.
            if let Some(digest) = event.digest() {
                self.law.disturbed(event.id.with_body(&digest));
            }
            self.law.disturbed(event.id);
        }
    }

    /// What was kept comes back when it is time, and never later than the longest backoff.
    fn check_visibility(&self, kept: &[ReceivedMessage]) {
        let (now, wall) = (Instant::now(), FakeClock.now());
        for record in kept {
            let Some(at) = record.receipt.as_ref().and_then(|receipt| self.events.visible_at(receipt)) else {
                continue;
            };
            let id = self.id_of(&record.message, record.sent_at);
            let hidden = SignedDuration::try_from(at.saturating_duration_since(now)).unwrap_or_default();
            if hidden > SignedDuration::from_hours(1) + SignedDuration::from_mins(10) {
                self.law.violate(&format!("the message of {id} is hidden for {hidden}"));
            }
            // Where every call worked, the message comes back when its record says so, unless it is on its way out, or the
            // record is about another copy of the event.
            let is_last = record.receive_count >= self.scenario.max_receives;
            if let Some(State::Retrying { next_attempt_at }) = self.table.record(&id).map(|record| record.state)
                && !self.scenario.disorder
                && !self.law.is_disturbed(&id)
                && !is_last
            {
                // Not before, and, as it is set when the whole batch is done, not later than that takes.
                let early = next_attempt_at.duration_since(wall) - hidden;
                let latest = SignedDuration::try_from(self.scenario.processor_time).unwrap_or_default();
                if !(-latest..SLACK).contains(&early) {
                    self.law.violate(&format!("the message of {id} comes back {early} before its next attempt"));
                }
            }
        }
    }

    fn processor(&self, name: &'static str) -> Warm<TheProcessor> {
        let process = self.process(name, PROCESSOR_CALL);
        let remote = |queue: &FakeQueue, service| Remote { port: queue.clone(), service, process: process.clone() };
        let function = Processor {
            events: remote(&self.events, Service::Events),
            dead_letters: remote(&self.dead_letters, Service::DeadLetters),
            table: Remote { port: self.table.clone(), service: Service::Table, process: process.clone() },
            target: SimTarget {
                process: process.clone(),
                poison: Arc::clone(&self.poison),
                refusals_per_thousand: self.scenario.refusals_per_thousand,
                busy: Arc::clone(&self.busy),
                mapping: self.mapping.clone(),
            },
            schedule: self.scenario.schedule(),
            clock: self.clock(),
            rng: Mutex::new(fastrand::Rng::with_seed(self.dice(|rng| rng.u64(..)))),
            attempts: AttemptCounter::default(),
        };
        Warm { process, function: Arc::new(function) }
    }

    /// Asks the replay function; `Err` where it died.
    pub(crate) async fn replay(&self, request: &Value) -> Result<Result<dead_letters::Answer, ReplayError>, Died> {
        let request = dead_letters::Request::parse(request.clone(), "an operator").expect("a request");
        if let dead_letters::Request::Discard { event_ids, .. } = &request {
            self.law.discard_is_asked(event_ids.iter().cloned());
        }
        let process = self.process(action(&request), OPERATOR_CALL);
        let remote = |queue: &FakeQueue, service| Remote { port: queue.clone(), service, process: process.clone() };
        let ports = Ports {
            events: remote(&self.events, Service::Events),
            dead_letters: remote(&self.dead_letters, Service::DeadLetters),
            redrive: remote(&self.dead_letters, Service::DeadLetters),
            table: Remote { port: self.table.clone(), service: Service::Table, process: process.clone() },
            archive: Remote { port: self.archive.clone(), service: Service::Archive, process: process.clone() },
            clock: self.clock(),
        };
        let function: DeadLetters<RemotePorts> = DeadLetters { ports };
        let handled = Box::pin(function.handle(request, Instant::now() + REPLAY_TIME));
        let answer = process.invoke(REPLAY_TIME, handled).await;
        if let Ok(Ok(answer)) = &answer {
            let answer = json!(answer);
            for (field, name) in DONE {
                if answer[field].as_u64().is_some_and(|count| count > 0) {
                    self.weather.count(name);
                }
            }
        }
        self.law.note(|| match &answer {
            Ok(Ok(answer)) => format!("replay: {}", json!(answer)),
            Ok(Err(error)) => format!("replay: {error}"),
            Err(Died) => "replay died".to_owned(),
        });
        self.law.account();
        answer
    }

    /// Runs the recovery from its checkpoint.
    pub(crate) async fn recover(&self) -> Result<bool, Died> {
        let clock = self.clock();
        let request = recover::Request::parse(json!({}), "a schedule", clock_now(clock)).expect("a request");
        let process = self.process("recovery", OPERATOR_CALL);
        let remote = |queue: &FakeQueue, service| Remote { port: queue.clone(), service, process: process.clone() };
        let function = Recover {
            log: RemoteLog { log: self.log.clone(), process: process.clone() },
            events: remote(&self.events, Service::Events),
            dead_letters: remote(&self.dead_letters, Service::DeadLetters),
            table: Remote { port: self.table.clone(), service: Service::Table, process: process.clone() },
            clock,
            overlap: OVERLAP,
        };
        let work = async { function.recover(&request, Instant::now() + RECOVERY_TIME).await };
        let report = process.invoke(RECOVERY_TIME, work).await?;
        self.law.note(|| match &report {
            Ok(report) => format!("recovery: {}", json!(report)),
            Err(failed) => format!("recovery: {}", failed.error),
        });
        self.law.account();
        Ok(report.is_ok_and(|report| report.complete))
    }
}

/// Fields of the answers that count what was done, and what a run is called that did something.
const DONE: [(&str, &str); 4] = [
    ("replayed", "runs that replayed"),
    ("archived", "runs that archived"),
    ("restored", "runs that restored"),
    ("discarded", "runs that discarded"),
];

/// What a process of the replay function is there for.
fn action(request: &dead_letters::Request) -> &'static str {
    match request {
        dead_letters::Request::Replay(_) => "replay",
        dead_letters::Request::Reconcile { .. } => "reconcile",
        dead_letters::Request::Archive { .. } => "archive",
        dead_letters::Request::Restore { .. } => "restore",
        dead_letters::Request::Discard { .. } => "discard",
        dead_letters::Request::StatusOf(_)
        | dead_letters::Request::Start(_)
        | dead_letters::Request::Background { .. }
        | dead_letters::Request::Status
        | dead_letters::Request::List(_)
        | dead_letters::Request::Show(_)
        | dead_letters::Request::Cancel(_) => "look",
    }
}

fn clock_now(clock: SkewedClock) -> jiff::Timestamp {
    genesys_relay::ports::clock::Clock::now(&clock)
}
