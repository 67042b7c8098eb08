//! The use cases over stand-ins, and a life in which everything happens that is measured.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use genesys_relay::breaker::{self, Breaker};
use genesys_relay::check::path::Path;
use genesys_relay::check::{self, RelayError, WebRequest, Webhook, canary};
use genesys_relay::dead_letters::{self, DeadLetters, Ports, Settings};
use genesys_relay::deliver::{self, Backoff, Order, Processor};
use genesys_relay::domain::attempts::{Attempts, minute_of};
use genesys_relay::domain::circuit::Policy;
use genesys_relay::domain::circuit::Probed;
use genesys_relay::domain::message::{MAX_MESSAGE_BYTES, Message};
use genesys_relay::domain::retry::Schedule;
use genesys_relay::ingest::{self, Accepted, Ingest, Refusal};
use genesys_relay::ports::clock::Clock as _;
use genesys_relay::ports::delivery_log::{
    DeliveryLog, DeliveryLogError, Entry, Failed, Part, Unreadable, Window,
};
use genesys_relay::ports::events_table::{EventsTable as _, LeaseName, RunLease};
use genesys_relay::ports::pace::Pace;
use genesys_relay::ports::queue::{ReceivedMessage, Sender as _};
use genesys_relay::ports::secrets::SecretCache;
use genesys_relay::ports::sent_messages::{SentMessages, SentPart};
use genesys_relay::ports::target::{Delivery, DeliveryFailure, FailureCause, Outcome, Target};
use genesys_relay::recover::{self, Recover};
use genesys_relay::statement::{self, Statements};
use genesys_relay::testing::{
    FakeArchive, FakeClock, FakeCounts, FakeEventSource, FakePorts, FakeProber, FakeQueue,
    FakeSecretStore, FakeTable,
};
use http::HeaderMap;
use jiff::SignedDuration;
use serde_json::{Value, json};
use tokio::time::{Instant, advance, sleep};
use uuid::Uuid;

const SECRET: &str = "a secret of the sender";

/// As many as make the way of an event that is refused again and again short.
const RECEIVES: u32 = 4;

/// Requests a second, which never make an event of these tests wait for long.
const A_THOUSAND: NonZeroU32 = NonZeroU32::new(1000).unwrap();

/// Longer than any backoff of so few receives.
const A_WHILE: Duration = Duration::from_mins(2);

/// A bare message, as a person writes it.
pub(crate) fn message(name: &str) -> Message {
    Message {
        body: json!({ "name": name }).to_string(),
        attributes: BTreeMap::new(),
        group: None,
        trace: None,
    }
}

/// A target that does what the name of an event says, in a tenth of a second.
struct Named;

impl Target for Named {
    async fn deliver(&self, delivery: Delivery<'_>) -> Outcome {
        let Delivery { event, attempt, .. } = delivery;
        sleep(Duration::from_millis(100)).await;
        let body: Value = serde_json::from_slice(&event.body).unwrap_or_default();
        let name = body["name"].as_str().unwrap_or_default();
        assert_ne!(name, "panics");
        let cause = match name.parse() {
            Ok(status) => FailureCause::Status(status),
            Err(_) if name == "hangs" => FailureCause::TimedOut,
            Err(_) if name == "refuses credentials" && attempt == 1 => {
                FailureCause::Credentials(Some(401))
            }
            Err(_) => return Outcome::Delivered { status: Some(204) },
        };
        Outcome::Failed(DeliveryFailure::new(cause, "as the test says"))
    }

    fn address(&self) -> String {
        "a test".to_owned()
    }
}

type TheProcessor = Processor<FakePorts<Named>>;

/// All of it but the recovery and the breaker.
pub(crate) struct Relay {
    pub(crate) events: FakeQueue,
    ordered: FakeQueue,
    journal: FakeQueue,
    pub(crate) dead_letters: FakeQueue,
    pub(crate) table: FakeTable,
    archive: FakeArchive,
    ingest: Ingest<FakePorts>,
    processor: Arc<TheProcessor>,
    replay: DeadLetters<FakePorts>,
}

impl Relay {
    pub(crate) fn new() -> Self {
        let (dead_letters, table, archive) = (
            FakeQueue::default(),
            FakeTable::default(),
            FakeArchive::default(),
        );
        let events = FakeQueue::default().redriving_to(&dead_letters, RECEIVES);
        let (ordered, journal) = (FakeQueue::default(), FakeQueue::default());
        let secrets = FakeSecretStore::holding(&json!({ "webhookSecrets": [SECRET] }));
        let schedule = Schedule::new(Duration::from_secs(2), Duration::from_mins(1), RECEIVES)
            .expect("a schedule");
        Self {
            ingest: Ingest {
                ports: ingest::Ports {
                    events: events.clone(),
                    dead_letters: dead_letters.clone(),
                    secrets: SecretCache::new(secrets, Duration::from_mins(5), FakeClock),
                    clock: FakeClock,
                },
                rng: Mutex::new(fastrand::Rng::with_seed(7)),
            },
            processor: Arc::new(
                Processor::new(
                    deliver::Ports {
                        events: events.clone(),
                        ordered: Some(ordered.clone()),
                        dead_letters: dead_letters.clone(),
                        journal: Some(journal.clone()),
                        table: table.clone(),
                        target: Named,
                        clock: FakeClock,
                    },
                    Backoff::with_rng(schedule, fastrand::Rng::with_seed(7)),
                )
                .with_pace(Some(Pace::new(
                    A_THOUSAND,
                    NonZeroU32::MIN,
                    Duration::from_secs(1),
                )))
                .with_order(Some(Order {
                    patience: A_WHILE,
                    request_time: Duration::from_secs(1),
                })),
            ),
            replay: DeadLetters {
                ports: Ports {
                    events: events.clone(),
                    dead_letters: dead_letters.clone(),
                    ordered: None,
                    journal: Some(journal.clone()),
                    redrive: dead_letters.clone().moving_to(&events),
                    table: table.clone(),
                    archive: archive.clone(),
                    clock: FakeClock,
                },
                settings: Settings::default(),
            },
            events,
            ordered,
            journal,
            dead_letters,
            table,
            archive,
        }
    }

    async fn sends(&self, secret: &str, body: &[u8]) -> Result<Accepted, Refusal> {
        self.sends_with(&[("x-webhook-secret", secret)], body).await
    }

    async fn sends_with(
        &self,
        headers: &[(&'static str, &str)],
        body: &[u8],
    ) -> Result<Accepted, Refusal> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(*name, value.parse().expect("a value"));
        }
        self.ingest.ingest(&map, body, None).await
    }

    /// Takes a webhook in.
    pub(crate) async fn receives(&self, body: &Value) -> Result<Accepted, Refusal> {
        self.sends_body(&body.to_string()).await
    }

    /// The same, whatever it is.
    pub(crate) async fn sends_body(&self, body: &str) -> Result<Accepted, Refusal> {
        self.sends(SECRET, body.as_bytes()).await
    }

    /// Hands out what the queue holds until that is nothing.
    pub(crate) async fn work(&self) {
        while !self.events.messages().is_empty() {
            let records = self.events.hand_out(10, Duration::from_mins(6));
            let receipts: Vec<_> = records
                .iter()
                .map(|record| (record.message_id.clone(), record.receipt.clone()))
                .collect();
            let kept = self
                .processor
                .process(records, Instant::now() + Duration::from_mins(1))
                .await;
            let done = receipts
                .into_iter()
                .filter(|(id, _)| !kept.contains(id))
                .map(|(_, receipt)| receipt);
            for deleted in genesys_relay::ports::queue::Receiver::delete(
                &self.events,
                &done.collect::<Vec<_>>(),
            )
            .await
            {
                deleted.expect("deleted");
            }
            advance(A_WHILE).await;
        }
    }

    /// Answer to a request; `None` where it fails.
    pub(crate) async fn asks(&self, request: Value) -> Value {
        let request = dead_letters::Request::parse(request, "a test").expect("a request");
        let answer = self
            .replay
            .handle(request, Instant::now() + Duration::from_mins(15))
            .await
            .ok();
        serde_json::to_value(answer).expect("JSON")
    }

    /// Another run takes from the dead-letter queue for some minutes.
    pub(crate) async fn is_busy(&self) {
        let now = FakeClock.now();
        let (action, by) = ("replay".to_owned(), "an operator".to_owned());
        let lease = RunLease {
            owner: Uuid::new_v4(),
            action,
            by,
            since: now,
            until: now + Duration::from_mins(5),
        };
        self.table
            .acquire(LeaseName::DeadLetters, &lease, now)
            .await
            .expect("written");
    }

    pub(crate) async fn reconcile(&self) {
        self.asks(json!({ "action": "reconcile" })).await;
    }
}

/// Everything that is measured, but calls of AWS that fail.
pub(crate) async fn everything() {
    let relay = Relay::new();
    webhooks(&relay).await;
    deliveries(&relay).await;
    duplicates(&relay).await;
    conversation(&relay).await;
    dead_letters(&relay).await;
    journal(&relay).await;
    recoveries(&relay).await;
    statements(&relay).await;
    breaker(&relay).await;
    canary(&relay).await;
}

/// A run of the canary that has no secret.
async fn canary(relay: &Relay) {
    let path: Result<&Path<Nowhere, Nowhere>, _> = Err("no secret".to_owned());
    let checks = canary::run(path, &relay.table, &FakeClock).await;
    assert_eq!(checks.expect("saved"), []);
}

/// A relay that no run of the canary reaches.
struct Nowhere;

impl Webhook for Nowhere {
    async fn send(&self, _request: WebRequest) -> Result<u16, String> {
        unreachable!()
    }
}

impl check::Relay for Nowhere {
    async fn look(&self, _request: Value) -> Result<Value, RelayError> {
        unreachable!()
    }

    async fn act(&self, _request: Value) -> Result<Value, RelayError> {
        unreachable!()
    }
}

/// One webhook for each answer of ingest.
pub(crate) async fn webhooks(relay: &Relay) {
    relay
        .receives(&json!({ "name": "fine" }))
        .await
        .expect("accepted");
    relay.sends_body("").await.expect_err("empty");
    relay.sends_body("<xml/>").await.expect_err("not JSON");
    relay.sends("wrong", b"{}").await.expect_err("unauthorized");
    let signed = [(
        "x-hub-signature-256",
        "sha256=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
    )];
    relay
        .sends_with(&signed, b"{}")
        .await
        .expect_err("no secret of this kind is set");
    relay
        .sends_body(&"x".repeat(MAX_MESSAGE_BYTES + 1))
        .await
        .expect_err("too large");
    relay.events.fail_times(1);
    relay
        .receives(&json!({ "name": "lost" }))
        .await
        .expect_err("unavailable");
}

async fn deliveries(relay: &Relay) {
    for name in [
        "302",
        "404",
        "503",
        "hangs",
        "panics",
        "refuses credentials",
    ] {
        relay
            .receives(&json!({ "name": name }))
            .await
            .expect("accepted");
    }
    let mut accepted = relay.events.messages();
    // An invocation that has no time left for a request. What it sends again is a duplicate.
    let (records, end) = (
        relay.events.hand_out(1, Duration::ZERO),
        Instant::now() + Duration::from_secs(3),
    );
    relay.processor.process(records, end).await;
    // Two bodies of one id, and all of it once more.
    let channel = json!({ "id": "c1", "platform": "Open", "time": FakeClock.now() });
    for text in ["one", "other"] {
        let body = json!({ "id": "m1", "type": "Text", "channel": channel, "text": text });
        relay.receives(&body).await.expect("accepted");
    }
    let channels = relay.events.messages().split_off(accepted.len());
    relay.work().await;
    accepted.truncate(1);
    for message in accepted.iter().chain(&channels) {
        relay.events.send(message).await.expect("a duplicate");
    }
    relay.work().await;
}

/// Delivered events of which one is missing in the journal, and one is sent once more and erased.
async fn journal(relay: &Relay) {
    relay.journal.fail_times(1);
    for name in ["unjournalled", "journalled"] {
        relay
            .receives(&json!({ "name": name }))
            .await
            .expect("accepted");
        relay.work().await;
    }
    let journalled = relay.journal.messages().pop().expect("a message");
    let id = journalled.event_id().expect("an id").to_owned();
    let resend = json!({ "action": "resend", "eventIds": [&id], "why": "a test", "runId": "one" });
    let Ok(dead_letters::Request::Start(start)) = dead_letters::Request::parse(resend, "a test")
    else {
        panic!("no start")
    };
    relay.replay.enlist(&start).await.expect("started");
    let answer = relay.asks(start.payload).await;
    assert_eq!(answer["resent"], 1, "{answer}");
    let erase = json!({ "action": "erase", "eventIds": [id], "why": "a test" });
    let erased = relay.asks(erase).await;
    assert_eq!(erased["erased"], 1, "{erased}");
}

/// An event in line that fails, and fails once more when the patience is over.
pub(crate) async fn conversation(relay: &Relay) {
    let message = Message {
        group: Some("c1".to_owned()),
        ..message("503")
    };
    relay.ordered.send(&message).await.expect("sent");
    for _ in 0..2 {
        let in_order = |record| ReceivedMessage {
            is_ordered: true,
            ..record
        };
        let records = relay
            .ordered
            .hand_out(1, Duration::from_mins(6))
            .into_iter();
        let deadline = Instant::now() + Duration::from_mins(1);
        relay
            .processor
            .process(records.map(in_order).collect(), deadline)
            .await;
        advance(A_WHILE).await;
    }
    relay.work().await;
}

/// Events of a webhook and of a bus, delivered twice.
async fn duplicates(relay: &Relay) {
    let now = FakeClock.now();
    let bus = json!({ "detail-type": "v2.x", "detail": { "topicName": "v2.x", "eventBody": {}, "timestamp": now } });
    for body in [
        json!({ "webhookId": "w", "payload": {}, "timestamp": now }),
        bus,
    ] {
        for _ in 0..2 {
            relay.receives(&body).await.expect("accepted");
            relay.work().await;
        }
    }
}

async fn dead_letters(relay: &Relay) {
    // Its reason is unknown.
    relay
        .dead_letters
        .send(&message("fine"))
        .await
        .expect("sent");
    advance(Duration::from_secs(1)).await;
    relay.reconcile().await;
    let listed = relay.asks(json!({ "action": "list" })).await;
    let ids: Vec<&str> = listed["items"]
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(|item| item["eventId"].as_str())
        .collect();
    assert!(ids.len() > 4, "{listed}");
    assert_eq!(
        relay
            .asks(json!({ "action": "replay", "eventIds": [ids[0]] }))
            .await["replayed"],
        1
    );
    assert_eq!(
        relay
            .asks(json!({ "action": "discard", "eventIds": [ids[1]], "why": "to see" }))
            .await["discarded"],
        1
    );
    relay.work().await;
    advance(Duration::from_hours(11 * 24)).await;
    relay.archive.fail_times(1);
    let failed = relay
        .asks(json!({ "action": "archive", "olderThanDays": 10 }))
        .await;
    // An error where it got nowhere, and a report where it had recorded an unknown dead letter.
    assert!(failed.is_null() || failed["failures"] == 1, "{failed}");
    let archived = relay
        .asks(json!({ "action": "archive", "olderThanDays": 10 }))
        .await;
    let key = &archived["keys"][0];
    assert!(
        relay.asks(json!({ "action": "restore", "key": key })).await["restored"].as_u64() > Some(0),
        "{archived}"
    );
}

/// A message of Open Messaging whose id and time others have as well.
pub(crate) fn open_messaging(text: &str) -> Value {
    let channel = json!({ "id": "c1", "platform": "Open", "time": "2026-01-15T12:00:00Z" });
    json!({ "id": "m1", "type": "Text", "channel": channel, "text": text })
}

/// Failed deliveries of Genesys Cloud: an unknown event, a known one, and an unreadable item; or one
/// message of Open Messaging, byte for byte.
struct Log(Option<String>);

impl DeliveryLog for Log {
    type Place = ();

    fn name(&self) -> &'static str {
        "a test"
    }

    fn longest_span(&self) -> u32 {
        3600
    }

    fn resume(&self, (): ()) -> Option<()> {
        None
    }

    async fn read(&self, window: Window, (): (), _: Instant) -> Result<Part<()>, DeliveryLogError> {
        let failed = |name: &str| {
            Entry::Failed(Failed {
                delivery: name.to_owned(),
                entry: name.to_owned(),
                is_copy: false,
                at: Some(window.from),
                body: json!({ "name": name, "timestamp": window.from })
                    .to_string()
                    .into_bytes(),
                content_type: None,
                headers: BTreeMap::new(),
                sender_key: None,
                note: "503".to_owned(),
            })
        };
        if let Some(text) = &self.0 {
            let Entry::Failed(failed) = failed(text) else {
                return Ok(Part {
                    entries: Vec::new(),
                    next: None,
                });
            };
            let body = open_messaging(text).to_string().into_bytes();
            return Ok(Part {
                entries: vec![Entry::Failed(Failed { body, ..failed })],
                next: None,
            });
        }
        let unreadable = Unreadable {
            name: window.from.to_string(),
            whole: "{}".to_owned(),
            problem: "as the test says".to_owned(),
            webhook_id: None,
        };
        let entries = vec![
            failed("lost"),
            failed("lost"),
            Entry::Unreadable(unreadable),
        ];
        Ok(Part {
            entries,
            next: None,
        })
    }
}

/// A run that succeeds, and one that fails.
pub(crate) async fn recoveries(relay: &Relay) {
    recover(relay, Log(None)).await.expect("recovered");
    relay.table.fail_after(0, 1);
    recover(relay, Log(None))
        .await
        .expect_err("the table is away");
}

/// Genesys's book of a day without messages.
struct NoMessages;

impl SentMessages for NoMessages {
    type Place = ();

    async fn read_sent(
        &self,
        _window: Window,
        (): (),
        _deadline: Instant,
    ) -> Result<SentPart<()>, DeliveryLogError> {
        Ok(SentPart {
            entries: Vec::new(),
            is_conversation: false,
            calls: 1,
            starts_again: false,
            next: None,
        })
    }
}

/// A run of the schedule of statements.
async fn statements(relay: &Relay) {
    let ports = statement::Ports {
        sent: NoMessages,
        table: relay.table.clone(),
        events: relay.events.clone(),
        archive: relay.archive.clone(),
        counts: FakeCounts::default(),
        clock: FakeClock,
    };
    let statements = Statements::<FakePorts<NoMessages>> {
        ports,
        has_conversation_index: true,
    };
    let request = json!({ "action": "statement", "by": "schedule" });
    let request = statement::Request::parse(request, "a test", FakeClock.now());
    let deadline = Instant::now() + Duration::from_mins(5);
    let answer = statements.run(&request.expect("a request"), deadline).await;
    answer.expect("a run");
}

/// A run that finds one message of Open Messaging.
pub(crate) async fn recovers(relay: &Relay, text: &str) {
    recover(relay, Log(Some(text.to_owned())))
        .await
        .expect("recovered");
}

async fn recover(relay: &Relay, log: Log) -> Result<recover::Report, recover::FailedRun> {
    let ports = recover::Ports {
        log,
        events: relay.events.clone(),
        dead_letters: relay.dead_letters.clone(),
        table: relay.table.clone(),
        clock: FakeClock,
    };
    let recover = Recover::<FakePorts<Log>> {
        ports,
        overlap: SignedDuration::from_mins(15),
    };
    let request = recover::Request::parse(json!({}), "a test", FakeClock.now()).expect("a request");
    recover
        .recover(&request, Instant::now() + Duration::from_mins(5))
        .await
}

/// Breaker of this relay.
fn breaker_of(relay: &Relay, prober: &FakeProber) -> Breaker<FakePorts> {
    let ports = breaker::Ports {
        events: relay.events.clone(),
        table: relay.table.clone(),
        ordered: None,
        event_sources: vec![FakeEventSource::default()],
        prober: prober.clone(),
        clock: FakeClock,
    };
    Breaker {
        ports,
        policy: Policy {
            failure_percent: 90,
            maximum_concurrency: 10,
            processor_timeout: None,
        },
        is_on: true,
    }
}

/// A run of the breaker, and the rest of its minute.
async fn minute(breaker: &Breaker<FakePorts>) {
    let request = breaker::Request::parse(json!({ "action": "run" }), "a test").expect("a request");
    let deadline = Instant::now() + Duration::from_mins(1);
    breaker.handle(&request, deadline).await.expect("a run");
    advance(Duration::from_mins(1)).await;
}

/// Minutes in which the breaker runs and the processor attempts nothing.
pub(crate) async fn minutes_without_attempts(relay: &Relay, count: usize) {
    let breaker = breaker_of(relay, &FakeProber::default());
    for _ in 0..count {
        minute(&breaker).await;
    }
}

async fn breaker(relay: &Relay) {
    let prober = FakeProber::default();
    let breaker = breaker_of(relay, &prober);
    prober.will(Ok(Probed::Delivered {
        event_id: "e".to_owned(),
    }));
    // It looks at an outage of some minutes, and then lets one event through.
    for _ in 0..5 {
        let mut attempts = Attempts::default();
        for number in 0..20 {
            attempts.count(
                &format!("{number:02}-event").parse().expect("an id"),
                1,
                false,
            );
        }
        relay
            .table
            .count_attempts(minute_of(FakeClock.now()), &attempts)
            .await
            .expect("counted");
        minute(&breaker).await;
    }
}

/// All that can happen to check events.
pub(crate) async fn checks() {
    let relay = Relay::new();
    let check = |name: &str, attempts: Value| {
        let check = json!({ "run": Uuid::nil(), "name": name, "attempts": attempts });
        json!({ "genesysRelayCheck": check }).to_string()
    };
    let body = check("delivered", json!(["retry", "deliver"]));
    relay
        .sends("wrong", body.as_bytes())
        .await
        .expect_err("unauthorized");
    relay
        .sends_with(&[], body.as_bytes())
        .await
        .expect_err("unauthorized");
    // The second is a duplicate.
    for _ in 0..2 {
        relay.sends_body(&body).await.expect("accepted");
        relay.work().await;
    }
    for name in ["discarded", "left"] {
        let body = check(
            name,
            json!(["refuse", "refuse", "retry", "retry", "retry", "retry"]),
        );
        relay.sends_body(&body).await.expect("accepted");
    }
    relay.work().await;
    let filter = json!({ "source": "check" });
    let replayed = relay
        .asks(json!({ "action": "replay", "filter": filter }))
        .await;
    assert_eq!(replayed["replayed"], 2);
    relay.work().await;
    // SQS moves what has used up its receives.
    relay
        .asks(json!({ "action": "replay", "filter": filter }))
        .await;
    relay.work().await;
    relay.reconcile().await;
    let list = relay
        .asks(json!({ "action": "list", "source": "check" }))
        .await;
    let id = &list["items"][0]["eventId"];
    let discarded = relay
        .asks(json!({ "action": "discard", "eventIds": [id], "why": "a test" }))
        .await;
    assert_eq!(discarded["discarded"], 1);
    advance(Duration::from_hours(2)).await;
    let archived = relay.asks(json!({ "action": "archive" })).await;
    assert_eq!(
        (&archived["archived"], &archived["removed"]),
        (&json!(0), &json!(1))
    );
    assert_eq!(relay.journal.messages(), []);
    let records = relay.table.records();
    let ids: Vec<_> = records.iter().map(|record| &record.event_id).collect();
    let forgotten = relay
        .asks(json!({ "action": "forget", "eventIds": ids }))
        .await;
    assert_eq!(forgotten["failures"], 0);
}
