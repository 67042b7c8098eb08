//! The function over fakes, for the tests of this crate.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use genesys_relay::dead_letters::{DeadLetters, Ports, Settings};
use genesys_relay::domain::event::EventId;
use genesys_relay::domain::message::Message;
use genesys_relay::ports::clock::Clock as _;
use genesys_relay::ports::queue::Sender as _;
use genesys_relay::ports::service::{Service, ServiceError};
use genesys_relay::testing::{
    FakeArchive, FakeClock, FakeEventSource, FakePorts, FakeQueue, FakeTable,
};
use lambda_runtime::{Context, Diagnostic, LambdaEvent};
use serde_json::{Value, json};

use crate::background::Background;
use crate::handler::{Function, handle};

pub(crate) use genesys_relay::testing::refused;

/// The function over fakes.
pub(crate) type Fakes = Arc<Function<FakePorts, FakeBackground, FakeEventSource>>;

/// Keeps the requests that are handed over.
#[derive(Default)]
pub(crate) struct FakeBackground {
    requests: Mutex<Vec<Value>>,
    fails: AtomicBool,
}

impl FakeBackground {
    /// Refuses every request from now on.
    pub(crate) fn fail(&self) {
        self.fails.store(true, Ordering::Relaxed);
    }

    /// Requests that were handed over.
    pub(crate) fn requests(&self) -> Vec<Value> {
        self.requests
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

impl Background for FakeBackground {
    async fn hand_over(&self, request: &Value) -> Result<(), ServiceError> {
        if self.fails.load(Ordering::Relaxed) {
            return Err(Service::Lambda.unavailable("the function was made to fail"));
        }
        self.requests
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(request.clone());
        Ok(())
    }
}

/// A function without any dead letters.
pub(crate) fn function() -> Fakes {
    function_over(FakeQueue::default())
}

/// A function over a dead-letter queue and its move task.
pub(crate) fn function_over(dead_letters: FakeQueue) -> Fakes {
    let ports = Ports {
        events: FakeQueue::default(),
        ordered: None,
        journal: Some(FakeQueue::default()),
        redrive: dead_letters.clone(),
        dead_letters,
        table: FakeTable::default(),
        archive: FakeArchive::default(),
        clock: FakeClock,
    };
    Arc::new(Function {
        dead_letters: DeadLetters {
            ports,
            settings: Settings::default(),
        },
        background: FakeBackground::default(),
        event_sources: vec![FakeEventSource::default()],
        maximum_concurrency: 10,
        acts_elsewhere: None,
    })
}

/// A payload of the folder `events`.
pub(crate) fn sample(name: &str) -> Value {
    let path = format!("{}/../../events/{name}.json", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The message that ingest makes of a sample, as a dead letter.
pub(crate) fn dead_letter_of(sample_name: &str) -> Message {
    let body = sample(sample_name)["body"]
        .as_str()
        .expect("a body")
        .to_owned();
    refused(body)
}

/// The event of a message.
pub(crate) fn id_of(message: &Message) -> EventId {
    message.to_event(FakeClock.now()).expect("readable").id
}

/// Puts messages into the dead-letter queue, and records them, a second apart.
pub(crate) async fn send_to_dead_letters(
    function: &Fakes,
    messages: impl IntoIterator<Item = Message>,
) {
    for message in messages {
        let sent_at = FakeClock.now();
        function
            .dead_letters
            .ports
            .dead_letters
            .send(&message.with_identity(sent_at))
            .await
            .expect("sent");
        tokio::time::advance(Duration::from_secs(1)).await;
    }
    invoke(function, json!({ "action": "reconcile" }))
        .await
        .expect("reconciled");
}

/// Invocations so far.
static INVOCATIONS: AtomicUsize = AtomicUsize::new(0);

/// Invokes the function, with a quarter of an hour to go.
pub(crate) async fn invoke(function: &Fakes, payload: Value) -> Result<Value, Diagnostic> {
    let mut context = Context::default();
    let deadline = SystemTime::now() + Duration::from_mins(15);
    let since_epoch = deadline
        .duration_since(SystemTime::UNIX_EPOCH)
        .expect("after 1970");
    let number = INVOCATIONS.fetch_add(1, Ordering::Relaxed);
    context.request_id = format!("request-{number}");
    context.deadline = u64::try_from(since_epoch.as_millis()).expect("in range");
    let reply = handle(Arc::clone(function), LambdaEvent::new(payload, context)).await?;
    Ok(serde_json::to_value(reply).expect("serialises"))
}
