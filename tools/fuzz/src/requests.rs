//! Requests to the replay function and the recovery.

use genesys_relay::dead_letters::{self, DeadLetters, OrderMode, OrderedQueues, Ports, Settings};
use genesys_relay::domain::request::InvalidRequest;
use genesys_relay::domain::text::excerpt;
use genesys_relay::ports::clock::Clock as _;
use genesys_relay::ports::delivery_log::{DeliveryLog, DeliveryLogError, Part, Window};
use genesys_relay::recover::{self, Recover};
use genesys_relay::testing::{FakeArchive, FakePorts, FakeQueue, FakeTable};
use jiff::SignedDuration;
use serde_json::Value;
use tokio::time::Instant;

use crate::runtime::{Noon, deadline, run};

/// An error of Lambda has to fit into an answer, and into a line of the log.
const MAX_ERROR_BYTES: usize = 4 * 1024;

/// A request is carried out, or its error names a field of it.
pub(crate) fn replay_request(input: &[u8]) {
    let Ok(request) = serde_json::from_slice::<Value>(input) else {
        return;
    };
    match dead_letters::Request::parse(request.clone(), "an operator") {
        Err(error) => check_error(&error, &request),
        Ok(parsed) => {
            let queue = FakeQueue::default();
            let ports = Ports {
                events: FakeQueue::default(),
                dead_letters: queue.clone(),
                ordered: Some(OrderedQueues {
                    mode: OrderMode::Conversation,
                    queue: FakeQueue::default(),
                    dead_letters: FakeQueue::default(),
                }),
                journal: None,
                redrive: queue,
                table: FakeTable::default(),
                archive: FakeArchive::default(),
                clock: Noon,
            };
            let dead_letters: DeadLetters<FakePorts<(), Noon>> = DeadLetters {
                ports,
                settings: Settings::default(),
            };
            // Whether it finds anything is another matter.
            let _ = run(async { dead_letters.handle(parsed, deadline()).await });
        }
    }
}

/// A request is carried out, in bounded time, or its error names a field of it.
pub(crate) fn recovery_request(input: &[u8]) {
    let Ok(request) = serde_json::from_slice::<Value>(input) else {
        return;
    };
    match recover::Request::parse(request.clone(), "an operator", Noon.now()) {
        Err(error) => check_error(&error, &request),
        Ok(parsed) => {
            let ports = recover::Ports {
                log: Empty,
                events: FakeQueue::default(),
                dead_letters: FakeQueue::default(),
                table: FakeTable::default(),
                clock: Noon,
            };
            let recover = Recover::<FakePorts<Empty, Noon>> {
                ports,
                overlap: SignedDuration::from_mins(15),
            };
            let _ = run(async { recover.recover(&parsed, deadline()).await });
        }
    }
}

fn check_error(error: &InvalidRequest, request: &Value) {
    assert!(
        error.to_string().len() <= MAX_ERROR_BYTES,
        "an error of {} bytes",
        error.to_string().len()
    );
    assert!(
        !error.field.is_empty() && !error.problem.is_empty(),
        "{error:?}"
    );
    let first = error.field.split(['.', '[']).next().unwrap_or_default();
    let is_there = request
        .as_object()
        .is_some_and(|fields| fields.keys().any(|name| excerpt(name).starts_with(first)));
    let may_be_missing = [
        "request", "action", "eventId", "eventIds", "key", "why", "all", "from", "filter", "limit",
        "next",
    ];
    assert!(
        is_there || may_be_missing.contains(&first),
        "{error} of {request}"
    );
}

/// A log that is empty, and takes a second to say so.
struct Empty;

impl DeliveryLog for Empty {
    type Place = u64;

    fn name(&self) -> &'static str {
        "empty"
    }

    fn longest_span(&self) -> u32 {
        3600
    }

    fn resume(&self, place: u64) -> Option<u64> {
        Some(place)
    }

    async fn read(
        &self,
        window: Window,
        place: u64,
        deadline: Instant,
    ) -> Result<Part<u64>, DeliveryLogError> {
        assert!(window.from < window.to, "an empty window");
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        if Instant::now() >= deadline {
            return Err(DeliveryLogError::OutOfTime("it took too long".into()));
        }
        let next = (place % 3 != 2).then_some(place.wrapping_add(1));
        Ok(Part {
            entries: Vec::new(),
            next,
        })
    }
}
