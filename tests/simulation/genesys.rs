//! Model of Genesys Cloud: sends events, gives up after its retries, and logs what it gave up.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use genesys_relay::ingest::Refusal;
use genesys_relay::ports::clock::Clock as _;
use genesys_relay::ports::delivery_log::{
    DeliveryLog, DeliveryLogError, Entry, Failed, Part, Window,
};
use genesys_relay::testing::FakeClock;
use http::{HeaderMap, HeaderValue};
use jiff::Timestamp;
use serde_json::json;
use tokio::time::{Instant, sleep, timeout};

use crate::faults::{Process, Service};
use crate::lock;
use crate::scenario::{Kind, Sent};
use crate::world::World;

/// Time for which Genesys Cloud waits for an answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Requests for one event, 25 to 85 seconds from first to last.
const TRIES: u32 = 4;

const PAGE: usize = 3;

/// Name of the log.
pub(crate) const LOG: &str = "simulated";

/// Events that Genesys Cloud gave up.
#[derive(Clone, Default)]
pub(crate) struct Log(Arc<Mutex<Vec<GivenUp>>>);

#[derive(Clone)]
struct GivenUp {
    sent: Sent,
    nth: usize,
    at: Timestamp,
}

/// The log, read over the network by one process.
pub(crate) struct RemoteLog {
    pub(crate) log: Log,
    pub(crate) process: Process,
}

impl DeliveryLog for RemoteLog {
    type Place = usize;

    fn name(&self) -> &'static str {
        LOG
    }

    fn longest_span(&self) -> u32 {
        3600
    }

    fn resume(&self, place: usize) -> Option<usize> {
        Some(place)
    }

    async fn read(
        &self,
        window: Window,
        place: usize,
        deadline: Instant,
    ) -> Result<Part<usize>, DeliveryLogError> {
        let out_of_time = || DeliveryLogError::OutOfTime("injected fault".into());
        if Instant::now() >= deadline {
            return Err(out_of_time());
        }
        let work = async {
            let all = lock(&self.log.0);
            let mut listed: Vec<_> = all
                .iter()
                .filter(|given_up| window.holds(given_up.at))
                .cloned()
                .collect();
            listed.sort_by_key(|given_up| (given_up.at, given_up.sent.number, given_up.nth));
            let failed = |GivenUp { sent, nth, at }| {
                let mut body = sent.body(nth);
                if sent.is_rewritten() {
                    // The log adds to the message, often its conversation.
                    body.truncate(body.len() - 1);
                    let added = match sent.conversation {
                        Some(_) => r#","idType":"Opaque"}"#,
                        None => r#","conversationId":"c"}"#,
                    };
                    body.extend(added.as_bytes());
                }
                Entry::Failed(Failed {
                    delivery: sent.number.to_string(),
                    entry: format!("{} {nth}", sent.number),
                    at: sent.has_logged_time().then_some(at),
                    body,
                    is_copy: sent.is_rewritten(),
                    content_type: Some("application/json".to_owned()),
                    headers: BTreeMap::new(),
                    sender_key: sent.key(),
                    note: "503".to_owned(),
                })
            };
            let next = (listed.len() > place + PAGE).then_some(place + PAGE);
            Ok(Part {
                entries: listed
                    .into_iter()
                    .skip(place)
                    .take(PAGE)
                    .map(failed)
                    .collect(),
                next,
            })
        };
        let unavailable = || {
            Err(DeliveryLogError::Failed(
                "the simulation made the log fail".into(),
            ))
        };
        let call = self.process.call(Service::Genesys, work, unavailable);
        tokio::time::timeout_at(deadline, call)
            .await
            .unwrap_or_else(|_| Err(out_of_time()))
    }
}

/// Sends one event with the retries of Genesys Cloud.
pub(crate) async fn send(world: Arc<World>, sent: Sent, nth: usize) {
    let body = sent.body(nth);
    if sent.kind == Kind::EventBridge {
        return world.publish(&sent, &body).await;
    }
    let at = FakeClock.now();
    for attempt in 0..TRIES {
        let headers = headers(&world, &sent);
        let (shared, of, body) = (Arc::clone(&world), sent.clone(), body.clone());
        // The invocation continues after the sender's time-out.
        let posted = tokio::spawn(async move { shared.post(&of, &headers, &body).await });
        let answer = timeout(ANSWER_TIMEOUT, posted)
            .await
            .ok()
            .and_then(Result::ok)
            .flatten();
        match answer {
            Some(Ok(_) | Err(Refusal::NotJson { .. })) => return,
            Some(Err(refusal)) if is_final(&refusal) => {
                world.invariants.violate(&format!(
                    "event-{} is genuine but was refused: {refusal}",
                    sent.number
                ));
                return;
            }
            Some(Err(_)) | None => {}
        }
        if attempt + 1 < TRIES {
            sleep(Duration::from_secs(
                world.faults.random(|rng| rng.u64(5..20)),
            ))
            .await;
        }
    }
    world.faults.count("events that Genesys Cloud gave up");
    world
        .invariants
        .note(|| format!("event-{} is given up", sent.number));
    let is_sharing =
        |other: &&Sent| sent.shared_id().is_some() && other.shared_id() == sent.shared_id();
    world.invariants.given_up(
        &sent,
        world
            .scenario
            .events
            .iter()
            .filter(is_sharing)
            .map(Sent::label),
    );
    lock(&world.log.0).push(GivenUp { sent, nth, at });
}

/// Posts the check events of a run, and asks to forget each after a while.
pub(crate) fn send_checks(world: &Arc<World>) {
    for (at, check) in world.scenario.checks.clone() {
        let world = Arc::clone(world);
        tokio::spawn(async move {
            sleep(at).await;
            // A check that is not accepted has failed, and is not sent again.
            drop(world.serve(&signed(&world), &check.body()).await);
            sleep(Duration::from_mins(
                world.faults.random(|rng| rng.u64(..30)),
            ))
            .await;
            let forget = json!({ "action": "forget", "eventIds": [check.id()], "why": "a check" });
            drop(world.replay(&forget).await);
        });
    }
}

/// True where Genesys Cloud drops the event at once, as after every 4xx.
fn is_final(refusal: &Refusal) -> bool {
    match refusal {
        Refusal::NoProof(_) | Refusal::WrongProof | Refusal::Empty | Refusal::TooLarge { .. } => {
            true
        }
        Refusal::NotJson { .. }
        | Refusal::NotConfigured { .. }
        | Refusal::SecretsUnavailable(_)
        | Refusal::QueueUnavailable(_) => false,
    }
}

/// Headers with the secret.
fn signed(world: &World) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let secret = HeaderValue::from_str(&world.secret()).expect("a header value");
    headers.insert("x-webhook-secret", secret);
    let json = HeaderValue::from_static("application/json");
    headers.insert("content-type", json);
    headers
}

fn headers(world: &World, sent: &Sent) -> HeaderMap {
    let mut headers = signed(world);
    let mut put = |name: &'static str, value: &str| {
        headers.insert(name, HeaderValue::from_str(value).expect("a header value"));
    };
    for (name, value) in ["idempotency-key", "webhook-id"]
        .into_iter()
        .zip(sent.keys())
    {
        if let Some(value) = value {
            put(name, &value);
        }
    }
    headers
}
