//! Requests to the events table that each way of an event through the processor costs, counted below
//! the SDK.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context as _, Result};
use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpClient,
    SharedHttpConnector,
};
use aws_smithy_runtime_api::client::orchestrator::HttpRequest;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use genesys_relay::adapters::aws::dynamodb::DynamoDb;
use genesys_relay::deliver::{PortTypes, Ports, Processor};
use genesys_relay::domain::event_record::{DeadLetterStatus, OperatorAction, State};
use genesys_relay::domain::message::Message;
use genesys_relay::domain::retry::Schedule;
use genesys_relay::ports::clock::{Clock, SystemClock};
use genesys_relay::ports::events_table::{EventsTable, Written};
use genesys_relay::ports::queue::{ReceiptHandle, ReceivedMessage};
use genesys_relay::ports::target::{Delivery, DeliveryFailure, FailureCause, Outcome, Target};
use genesys_relay::testing::FakeQueue;
use jiff::{SignedDuration, Timestamp};
use local::stack::{Stack, StackOptions};
use tokio::time::Instant;

const RECEIVES: u32 = 4;

/// The requests since they were last asked for: the operation, and whether its condition was
/// refused. What counts attempts belongs to no event, and comes at most once in ten seconds: it is
/// counted apart.
#[derive(Debug, Clone, Default)]
struct Requests {
    of_events: Arc<Mutex<Vec<String>>>,
    counts: Arc<AtomicU32>,
}

impl Requests {
    fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.of_events.lock().expect("not poisoned"))
    }

    fn add(&self, request: String) {
        if request == COUNT {
            self.counts.fetch_add(1, Ordering::Relaxed);
        } else {
            self.of_events.lock().expect("not poisoned").push(request);
        }
    }
}

/// Counts what goes through it.
#[derive(Debug)]
struct Counting<T>(T, Requests);

impl HttpClient for Counting<SharedHttpClient> {
    fn http_connector(
        &self,
        settings: &HttpConnectorSettings,
        components: &RuntimeComponents,
    ) -> SharedHttpConnector {
        SharedHttpConnector::new(Counting(
            self.0.http_connector(settings, components),
            self.1.clone(),
        ))
    }
}

impl HttpConnector for Counting<SharedHttpConnector> {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let target = request.headers().get("x-amz-target").unwrap_or_default();
        let operation = target.rsplit('.').next().unwrap_or_default().to_owned();
        let (answer, requests) = (self.0.call(request), self.1.clone());
        HttpConnectorFuture::new(async move {
            let answer = answer.await;
            let refused = answer
                .as_ref()
                .is_ok_and(|answer| answer.status().as_u16() == 400);
            let outcome = if refused {
                format!("{operation}, refused")
            } else {
                operation
            };
            requests.add(outcome);
            answer
        })
    }
}

/// A clock that a test can set forward.
#[derive(Clone, Default)]
struct TestClock(Arc<Mutex<SignedDuration>>);

impl TestClock {
    fn forward(&self, by: SignedDuration) {
        *self.0.lock().expect("not poisoned") += by;
    }
}

impl Clock for TestClock {
    fn now(&self) -> Timestamp {
        SystemClock.now() + *self.0.lock().expect("not poisoned")
    }
}

/// A target that always answers the same, until it is told otherwise.
#[derive(Clone, Default)]
struct Answering(Arc<Mutex<u16>>);

impl Target for Answering {
    async fn deliver(&self, _: Delivery<'_>) -> Outcome {
        match *self.0.lock().expect("not poisoned") {
            status @ 200..300 => Outcome::Delivered {
                status: Some(status),
            },
            status => Outcome::Failed(DeliveryFailure::new(
                FailureCause::Status(status),
                "as the test says",
            )),
        }
    }

    fn address(&self) -> String {
        "a test".to_owned()
    }
}

/// The events table of the stack, and fakes.
struct OverDynamoDb;

impl PortTypes for OverDynamoDb {
    type Events = FakeQueue;
    type DeadLetters = FakeQueue;
    type Table = DynamoDb;
    type Target = Answering;
    type Clock = TestClock;
}

struct Relay {
    processor: Arc<Processor<OverDynamoDb>>,
    requests: Requests,
}

impl Relay {
    fn over(stack: &Stack) -> Result<Self> {
        let requests = Requests::default();
        let config = stack.config();
        let http = SharedHttpClient::new(Counting(
            config.http_client().context("a client")?,
            requests.clone(),
        ));
        let config = config.to_builder().http_client(http).build();
        let ports = Ports {
            events: FakeQueue::default(),
            ordered: None,
            dead_letters: FakeQueue::default(),
            journal: None,
            table: DynamoDb::new(&config, stack.output("EventsTableName")?.to_owned()),
            target: Answering::default(),
            clock: TestClock::default(),
        };
        let schedule = Schedule::new(Duration::from_secs(1), Duration::from_secs(1), RECEIVES)?;
        Ok(Self {
            processor: Arc::new(Processor::new(ports, schedule)),
            requests,
        })
    }

    /// Checks the requests that it costs to bring the event of this name to a target that answers
    /// with `status`.
    async fn check(
        &self,
        name: &str,
        (message_id, receive_count): (&str, u32),
        status: u16,
        expected: &[&str],
    ) {
        *self.processor.ports.target.0.lock().expect("not poisoned") = status;
        // Past every backoff, and past every lease.
        self.processor
            .ports
            .clock
            .forward(SignedDuration::from_mins(2));
        let record = ReceivedMessage {
            message_id: message_id.to_owned(),
            receipt: ReceiptHandle(message_id.to_owned()),
            receive_count,
            is_ordered: false,
            sent_at: self.processor.ports.clock.now(),
            message: named(name),
        };
        // An event that has waited costs a look at the erasures, once in ten seconds for all of them.
        let erasures: &[&str] = if receive_count > 1 { &[READ] } else { &[] };
        let expected = [erasures, expected].concat();
        self.requests.take();
        self.processor
            .process(vec![record], Instant::now() + Duration::from_mins(1))
            .await;
        assert_eq!(
            self.requests.take(),
            expected,
            "{name}, {message_id}, {receive_count}"
        );
    }

    /// The record of the event of this name.
    async fn record(&self, name: &str) -> Result<genesys_relay::domain::event_record::EventRecord> {
        let (id, _) = named(name).identity(Timestamp::UNIX_EPOCH);
        self.processor
            .ports
            .table
            .get(&id)
            .await?
            .context("a record")
    }

    /// Writes of a replay before it sends the event to the queue.
    async fn mark(&self, name: &str) -> Result<Vec<String>> {
        let (record, now) = (self.record(name).await?, self.processor.ports.clock.now());
        let Some(DeadLetterStatus::Dead(dead)) = DeadLetterStatus::recorded(&record, now) else {
            anyhow::bail!("not dead: {record:?}")
        };
        let act = OperatorAction {
            action: "replay".to_owned(),
            at: now,
            by: "a test".to_owned(),
            why: None,
        };
        self.requests.take();
        assert_eq!(
            self.processor
                .ports
                .table
                .write(&dead.replayed(act))
                .await?,
            Written::Done
        );
        Ok(self.requests.take())
    }
}

/// A message whose event has its name as its id, whichever message brings it.
fn named(name: &str) -> Message {
    let body = format!("{{\"name\":\"{name}\"}}");
    let message = Message {
        body,
        attributes: BTreeMap::new(),
        group: None,
        trace: None,
    };
    message.named(&name.parse().expect("an id"))
}

/// The first receive of the first message of an event.
const FIRST: (&str, u32) = ("first", 1);

const READ: &str = "GetItem";
const WRITE: &str = "PutItem";
const REFUSED: &str = "PutItem, refused";
const DELETE: &str = "DeleteItem";
const COUNT: &str = "UpdateItem";

#[tokio::test]
async fn each_way_of_an_event_costs_what_the_architecture_says() -> Result<()> {
    let stack = Stack::start(StackOptions::new("http://127.0.0.1:9/")).await?;
    let relay = Relay::over(&stack)?;
    let began = Instant::now();

    // Delivered: the claim and the settle.
    relay.check("fine", FIRST, 200, &[WRITE, WRITE]).await;
    // A copy of it: the claim of something new is refused, and tells why.
    relay.check("fine", ("second", 1), 200, &[REFUSED]).await;
    // A copy that was received before is looked up first.
    relay.check("fine", ("third", 2), 200, &[READ]).await;

    // Each retry: the record, the claim and the settle. The last retry keeps the body as well.
    let last = ("first", RECEIVES);
    for name in ["retried", "exhausted"] {
        relay.check(name, FIRST, 503, &[WRITE, WRITE]).await;
        for receive_count in 2..RECEIVES {
            let again = ("first", receive_count);
            relay.check(name, again, 503, &[READ, WRITE, WRITE]).await;
        }
    }
    relay
        .check("retried", last, 200, &[READ, WRITE, WRITE])
        .await;
    let exhausted = [READ, WRITE, WRITE, WRITE];
    relay.check("exhausted", last, 503, &exhausted).await;

    // Refused for good: the claim, the body, the settle.
    relay
        .check("refused", FIRST, 404, &[WRITE, WRITE, WRITE])
        .await;
    assert_eq!(relay.processor.ports.dead_letters.messages().len(), 1);
    // Its message is moved by us; brought again, it is moved again and nothing is written.
    relay.check("refused", ("first", 2), 404, &[READ]).await;

    // Replayed: the mark, then a claim of something new, which is refused, that from the dead
    // letters, the settle, and the body.
    for name in ["exhausted", "refused"] {
        assert_eq!(relay.mark(name).await?, [WRITE]);
        let replayed = [REFUSED, WRITE, WRITE, DELETE];
        relay.check(name, ("replayed", 1), 200, &replayed).await;
        let record = relay.record(name).await?;
        assert_eq!((record.state, record.replays_made), (State::Delivered, 1));
    }

    // Replayed with all others: the claim looks up who has asked.
    relay
        .check("moved", FIRST, 404, &[WRITE, WRITE, WRITE])
        .await;
    let moved = [REFUSED, READ, WRITE, WRITE, DELETE];
    relay.check("moved", ("moved", 1), 200, &moved).await;

    // An event whose processor crashed, or whose retry comes as another message, costs one refused
    // claim more.
    relay.check("copied", FIRST, 503, &[WRITE, WRITE]).await;
    let copied = [REFUSED, WRITE, WRITE];
    relay.check("copied", ("second", 1), 200, &copied).await;

    // What is no event needs no record.
    let strange = ReceivedMessage {
        message_id: "strange".to_owned(),
        receipt: ReceiptHandle::absent(),
        receive_count: 1,
        is_ordered: false,
        sent_at: Timestamp::UNIX_EPOCH,
        message: Message {
            body: "no json".to_owned(),
            attributes: BTreeMap::new(),
            group: None,
            trace: None,
        },
    };
    relay.requests.take();
    relay
        .processor
        .process(vec![strange], Instant::now() + Duration::from_mins(1))
        .await;
    assert_eq!(relay.requests.take(), Vec::<String>::new());

    let (counts, most) = (
        relay.requests.counts.load(Ordering::Relaxed),
        1 + began.elapsed().as_secs() / 10,
    );
    assert!(
        counts > 0 && u64::from(counts) <= most,
        "attempts were counted {counts} times, and {most} at most"
    );
    Ok(())
}
