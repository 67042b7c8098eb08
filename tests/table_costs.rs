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
use genesys_relay::deliver::{Ports, Processor};
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

struct Relay {
    processor: Arc<Processor<FakeQueue, FakeQueue, DynamoDb, Answering, TestClock>>,
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
            dead_letters: FakeQueue::default(),
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

    /// Brings the event of this name to a target that answers with `status`, and gives what that
    /// cost.
    async fn bring(
        &self,
        name: &str,
        message_id: &str,
        receive_count: u32,
        status: u16,
    ) -> Vec<String> {
        *self.processor.target.0.lock().expect("not poisoned") = status;
        let record = ReceivedMessage {
            message_id: message_id.to_owned(),
            receipt: ReceiptHandle(message_id.to_owned()),
            receive_count,
            sent_at: Timestamp::UNIX_EPOCH,
            message: named(name),
        };
        // Past every backoff, and past every lease.
        self.processor.clock.forward(SignedDuration::from_mins(2));
        self.requests.take();
        self.processor
            .process(vec![record], Instant::now() + Duration::from_mins(1))
            .await;
        self.requests.take()
    }

    /// The record of the event of this name.
    async fn record(&self, name: &str) -> Result<genesys_relay::domain::event_record::EventRecord> {
        let (id, _) = named(name).identity(Timestamp::UNIX_EPOCH);
        self.processor.table.get(&id).await?.context("a record")
    }

    /// Writes of a replay before it sends the event to the queue.
    async fn mark(&self, name: &str) -> Result<Vec<String>> {
        let (record, now) = (self.record(name).await?, self.processor.clock.now());
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
            self.processor.table.write(&dead.replayed(act)).await?,
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
    assert_eq!(relay.bring("fine", "first", 1, 200).await, [WRITE, WRITE]);
    // A copy of it: the claim of something new is refused, and tells why.
    assert_eq!(relay.bring("fine", "second", 1, 200).await, [REFUSED]);
    // A copy that was received before is looked up first.
    assert_eq!(relay.bring("fine", "third", 2, 200).await, [READ]);

    // Each retry: the record, the claim and the settle.
    assert_eq!(
        relay.bring("retried", "first", 1, 503).await,
        [WRITE, WRITE]
    );
    for receive_count in 2..RECEIVES {
        assert_eq!(
            relay.bring("retried", "first", receive_count, 503).await,
            [READ, WRITE, WRITE]
        );
    }
    assert_eq!(
        relay.bring("retried", "first", RECEIVES, 200).await,
        [READ, WRITE, WRITE]
    );

    // Exhausted: the last retry keeps the body as well.
    assert_eq!(
        relay.bring("exhausted", "first", 1, 503).await,
        [WRITE, WRITE]
    );
    for receive_count in 2..RECEIVES {
        assert_eq!(
            relay.bring("exhausted", "first", receive_count, 503).await,
            [READ, WRITE, WRITE]
        );
    }
    assert_eq!(
        relay.bring("exhausted", "first", RECEIVES, 503).await,
        [READ, WRITE, WRITE, WRITE]
    );

    // Refused for good: the claim, the body, the settle.
    assert_eq!(
        relay.bring("refused", "first", 1, 404).await,
        [WRITE, WRITE, WRITE]
    );
    assert_eq!(relay.processor.dead_letters.messages().len(), 1);
    // Its message is moved by us; brought again, it is moved again and nothing is written.
    assert_eq!(relay.bring("refused", "first", 2, 404).await, [READ]);

    // Replayed: the mark, then a claim of something new, which is refused, that from the dead
    // letters, the settle, and the body.
    for name in ["exhausted", "refused"] {
        assert_eq!(relay.mark(name).await?, [WRITE]);
        assert_eq!(
            relay.bring(name, "replayed", 1, 200).await,
            [REFUSED, WRITE, WRITE, DELETE]
        );
        let record = relay.record(name).await?;
        assert_eq!((record.state, record.replays_made), (State::Delivered, 1));
    }

    // Replayed with all others: the claim looks up who has asked.
    assert_eq!(
        relay.bring("moved", "first", 1, 404).await,
        [WRITE, WRITE, WRITE]
    );
    assert_eq!(
        relay.bring("moved", "moved", 1, 200).await,
        [REFUSED, READ, WRITE, WRITE, DELETE]
    );

    // An event whose processor crashed, or whose retry comes as another message, costs one refused
    // claim more.
    assert_eq!(relay.bring("copied", "first", 1, 503).await, [WRITE, WRITE]);
    assert_eq!(
        relay.bring("copied", "second", 1, 200).await,
        [REFUSED, WRITE, WRITE]
    );

    // What is no event needs no record.
    let strange = ReceivedMessage {
        message_id: "strange".to_owned(),
        receipt: ReceiptHandle::absent(),
        receive_count: 1,
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
