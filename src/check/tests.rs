//! The path over the real use cases, whose ports are stand-ins, whole and broken in one place.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::HeaderMap;
use serde_json::{Value, json};
use tokio::time::Instant;
use uuid::Uuid;

use super::path::{self, Path, Signer};
use super::*;
use crate::dead_letters::{self, DeadLetters, Settings};
use crate::deliver::{self, Processor};
use crate::domain::circuit::{Circuit, State};
use crate::domain::event_record::StateName;
use crate::domain::failure::FailureCause;
use crate::domain::retry::Schedule;
use crate::ingest::{self, Ingest, Refusal};
use crate::ports::clock::Clock as _;
use crate::ports::events_table::EventsTable as _;
use crate::ports::queue::{Receiver as _, Sender as _};
use crate::ports::secrets::SecretCache;
use crate::ports::target::{DeliveryFailure, Outcome};
use crate::runtime::logging::display_chain;
use crate::testing::{
    FakeArchive, FakeClock, FakePorts, FakeQueue, FakeSecretStore, FakeTable, FakeTarget, refused,
};

const SECRET: &str = "0123456789abcdef";

/// The one thing of a relay that is broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Broken {
    Nothing,
    /// The mapping of the processor is disabled.
    Processor,
    /// Ingest accepts what has no proof.
    Authentication,
    /// Ingest has another secret than the walk.
    Secret,
    /// The URL is of something else.
    Url,
    /// The route of the dead letters asks for no signature of IAM.
    Route,
    /// The look function cannot be invoked.
    Look,
    /// The target is away, and the breaker open.
    Target,
    /// The index of dead letters is empty.
    Index,
    /// These actions answer with an error.
    Action(&'static str),
    /// These actions always find another run in their way.
    Busy(&'static str),
    /// The stack is of a version that knows no check events.
    Stack,
    /// The replay function may not be invoked.
    Permission,
    /// The processor is of a version that knows no check events.
    Version,
}

struct World {
    broken: Broken,
    ingest: Ingest<FakePorts>,
    dead_letters: DeadLetters<FakePorts>,
    table: FakeTable,
    events: FakeQueue,
    letters: FakeQueue,
    journal: FakeQueue,
    target: FakeTarget,
    webhooks: AtomicUsize,
}

fn world(broken: Broken) -> World {
    let (letters, journal) = (FakeQueue::default(), FakeQueue::default());
    let events = FakeQueue::default().redriving_to(&letters, 10);
    let table = FakeTable::default();
    let target = FakeTarget::new(|_, _| async { Outcome::Delivered { status: Some(200) } });
    let secret = if broken == Broken::Secret {
        "another secret of a sender"
    } else {
        SECRET
    };
    let store = FakeSecretStore::holding(&json!({ "openMessagingSecrets": [secret] }));
    let ingest = Ingest {
        ports: ingest::Ports {
            events: events.clone(),
            dead_letters: letters.clone(),
            secrets: SecretCache::new(store, Duration::from_mins(5), FakeClock),
            clock: FakeClock,
        },
        rng: Mutex::new(fastrand::Rng::with_seed(7)),
    };
    let dead_letters = DeadLetters {
        ports: dead_letters::Ports {
            events: events.clone(),
            ordered: None,
            journal: Some(journal.clone()),
            redrive: letters.clone(),
            dead_letters: letters.clone(),
            table: table.clone(),
            archive: FakeArchive::default(),
            clock: FakeClock,
        },
        settings: Settings::default(),
    };
    let world = World {
        broken,
        ingest,
        dead_letters,
        table,
        events,
        letters,
        journal,
        target,
        webhooks: AtomicUsize::default(),
    };
    if broken != Broken::Processor {
        tokio::spawn(deliver_all(world.processor(), broken));
    }
    world
}

/// Delivers as the event source mapping and the processor do, without end.
async fn deliver_all(processor: Arc<Processor<FakePorts<FakeTarget>>>, broken: Broken) {
    let events = processor.ports.events.clone();
    loop {
        events.until_visible().await;
        let mut batch = events.hand_out(10, Duration::from_mins(6));
        let handed_out: Vec<_> = batch
            .iter()
            .map(|received| (received.message_id.clone(), received.receipt.clone()))
            .collect();
        if broken == Broken::Version {
            for received in &mut batch {
                // To such a processor it is any other JSON.
                received.message.body = received.message.body.replace("genesysRelayCheck", "other");
            }
        }
        let kept = processor
            .process(batch, Instant::now() + Duration::from_mins(1))
            .await;
        let done = handed_out.into_iter().filter(|(id, _)| !kept.contains(id));
        let done: Vec<_> = done.map(|(_, receipt)| receipt).collect();
        for deleted in events.delete(&done).await {
            deleted.expect("deleted");
        }
    }
}

impl World {
    fn processor(&self) -> Arc<Processor<FakePorts<FakeTarget>>> {
        let ports = deliver::Ports {
            events: self.events.clone(),
            ordered: None,
            dead_letters: self.letters.clone(),
            journal: Some(self.journal.clone()),
            table: self.table.clone(),
            target: self.target.clone(),
            clock: FakeClock,
        };
        let schedule = Schedule::new(Duration::from_secs(10), Duration::from_mins(15), 10);
        Arc::new(Processor::new(ports, schedule.expect("a schedule")))
    }

    fn path(&self) -> Path<&Self, &Self> {
        Path {
            webhook: self,
            relay: self,
            signer: Some(Signer::Signature(SECRET.to_owned())),
            to_target: false,
            by: Some("a test".to_owned()),
            run: Uuid::new_v4(),
            deadline: Instant::now() + Duration::from_mins(2),
        }
    }

    async fn invoke(&self, request: Value) -> Result<Value, RelayError> {
        let refused = |kind: &str, message: String| RelayError::Refused {
            kind: kind.to_owned(),
            message,
        };
        if let Broken::Action(action) = self.broken
            && request["action"] == action
        {
            return Err(refused("TableError", "as the test says".to_owned()));
        }
        if let Broken::Busy(action) = self.broken
            && request["action"] == action
        {
            return Err(refused("Busy", "as the test says".to_owned()));
        }
        if self.broken == Broken::Stack && request["source"] == "check" {
            return Err(refused("InvalidRequest", "source: unknown".to_owned()));
        }
        let request = dead_letters::Request::parse(request, "a caller").expect("a request");
        let answer = self
            .dead_letters
            .handle(request, Instant::now() + Duration::from_mins(1))
            .await;
        match answer {
            Ok(answer) => Ok(json!(answer)),
            Err(
                error @ (dead_letters::ReplayError::Unknown(_)
                | dead_letters::ReplayError::NotListed(..)),
            ) => Err(refused("NotFound", error.to_string())),
            Err(error) => Err(refused("Error", display_chain(&error))),
        }
    }

    /// Asserts that nothing of a walk is left anywhere.
    fn assert_empty(&self) {
        assert_eq!(self.table.records(), []);
        assert_eq!(self.table.kept_bodies(), []);
        for queue in [&self.events, &self.letters, &self.journal] {
            assert_eq!(queue.messages(), []);
        }
    }
}

impl Webhook for &World {
    async fn send(&self, request: WebRequest) -> Result<u16, String> {
        if self.broken == Broken::Url {
            return Ok(404);
        }
        let (proof, body) = match request {
            WebRequest::DeadLetters if self.broken == Broken::Route => return Ok(200),
            WebRequest::DeadLetters => return Ok(403),
            WebRequest::Webhook { proof, body } => (proof, body),
        };
        self.webhooks.fetch_add(1, Ordering::Relaxed);
        let headers: HeaderMap = proof.into_iter().collect();
        Ok(match self.ingest.ingest(&headers, &body, None).await {
            Ok(_) => 200,
            Err(_) if self.broken == Broken::Authentication => 200,
            Err(Refusal::NoProof(_) | Refusal::WrongProof) => 401,
            Err(refusal) => panic!("{refusal:?}"),
        })
    }
}

impl Relay for &World {
    async fn look(&self, request: Value) -> Result<Value, RelayError> {
        if self.broken == Broken::Look {
            return Err(RelayError::Unreachable(
                "the function is missing".to_owned(),
            ));
        }
        let mut answer = self.invoke(request).await?;
        if self.broken == Broken::Index && answer["action"] == "list" {
            answer["items"] = json!([]);
        }
        Ok(answer)
    }

    async fn act(&self, request: Value) -> Result<Value, RelayError> {
        if self.broken == Broken::Permission {
            return Err(RelayError::NotAllowed("lambda:InvokeFunction".to_owned()));
        }
        self.invoke(request).await
    }
}

/// The names of the checks with this outcome.
fn names(checks: &[Check], outcome: CheckOutcome) -> Vec<&str> {
    let are = checks.iter().filter(|check| check.outcome == outcome);
    are.map(|check| check.name.as_str()).collect()
}

#[tokio::test(start_paused = true)]
async fn whole_path_is_walked_and_leaves_nothing() {
    let world = world(Broken::Nothing);
    let checks = world.path().check().await;
    assert_eq!(names(&checks, CheckOutcome::Ok).len(), 14, "{checks:#?}");
    world.assert_empty();
    assert_eq!(world.target.deliveries(), 0);
    let took = |name| {
        let check = checks.iter().find(|check| check.name == name);
        check.and_then(|check| check.latency_ms)
    };
    // The retry of a check comes after two seconds at most.
    assert!(took(path::RETRIED).is_some_and(|took| (1..3000).contains(&took)));
    for hop in [
        path::ACCEPTED,
        path::DELIVERED,
        path::DEAD,
        path::REPLAYED,
        path::DISCARDED,
    ] {
        assert!(took(hop).is_some(), "{hop}");
    }
}

#[tokio::test(start_paused = true)]
async fn target_gets_a_check_only_when_asked() {
    let world = world(Broken::Nothing);
    let path = Path {
        to_target: true,
        ..world.path()
    };
    let checks = path.check().await;
    assert_eq!(names(&checks, CheckOutcome::Ok).len(), 14, "{checks:#?}");
    assert_eq!(world.target.deliveries(), 1);
    world.assert_empty();
}

#[tokio::test(start_paused = true)]
async fn each_fault_fails_one_check() {
    use Broken::{
        Action, Authentication, Index, Look, Processor, Route, Secret, Target, Url, Version,
    };
    for (broken, failed) in [
        (Processor, path::DELIVERED),
        (Secret, path::ACCEPTED),
        (Url, path::ACCEPTED),
        (Route, path::CLOSED),
        (Look, path::ANSWERS),
        (Target, path::BREAKER),
        (Index, path::LISTED),
        (Action("forget"), path::FORGOTTEN),
        (Action("replay"), path::REPLAYED),
        (Action("discard"), path::DISCARDED),
        (Version, path::DELIVERED),
    ] {
        let world = world(broken);
        if broken == Target {
            open_breaker(&world).await;
        }
        let checks = world.path().check().await;
        assert_eq!(
            names(&checks, CheckOutcome::Failed),
            [failed],
            "{broken:?}: {checks:#?}"
        );
        assert_eq!(checks.len(), 14, "{broken:?}");
        let check = checks.iter().find(|check| check.name == failed);
        assert!(
            check.is_some_and(|check| check.runbook.is_some()),
            "{broken:?}"
        );
    }
    // Two checks hold that one.
    let checks = world(Authentication).path().check().await;
    assert_eq!(
        names(&checks, CheckOutcome::Failed),
        [path::UNSIGNED, path::WRONG]
    );
}

#[tokio::test(start_paused = true)]
async fn nothing_dies_where_nothing_can_be_discarded() {
    let world = world(Broken::Permission);
    let checks = world.path().check().await;
    assert_eq!(names(&checks, CheckOutcome::Failed), [""; 0]);
    assert_eq!(names(&checks, CheckOutcome::NotAllowed), [path::FORGOTTEN]);
    assert_eq!(world.letters.messages(), []);
}

#[tokio::test(start_paused = true)]
async fn older_stack_and_open_breaker_get_no_event() {
    for (broken, outcome, step) in [
        (Broken::Stack, CheckOutcome::NotHere, path::ANSWERS),
        (Broken::Target, CheckOutcome::Failed, path::BREAKER),
        (Broken::Look, CheckOutcome::Failed, path::ANSWERS),
    ] {
        let world = world(broken);
        if broken == Broken::Target {
            open_breaker(&world).await;
        }
        let checks = world.path().check().await;
        assert!(names(&checks, outcome).contains(&step), "{checks:#?}");
        assert_eq!(world.events.messages(), [], "{broken:?}");
        assert_eq!(world.target.deliveries(), 0, "{broken:?}");
        // What must be refused is sent all the same.
        assert_eq!(
            names(&checks, CheckOutcome::Ok)
                .into_iter()
                .filter(|name| [path::UNSIGNED, path::WRONG, path::CLOSED].contains(name))
                .count(),
            3,
            "{checks:#?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn target_that_refuses_a_check_fails_it_and_leaves_nothing() {
    for status in [503, 400] {
        let world = World {
            target: FakeTarget::new(move |_, _| async move {
                Outcome::Failed(DeliveryFailure::new(
                    FailureCause::Status(status),
                    "as the test says",
                ))
            }),
            ..world(Broken::Processor)
        };
        tokio::spawn(deliver_all(world.processor(), Broken::Nothing));
        let path = Path {
            to_target: true,
            ..world.path()
        };
        let checks = path.check().await;
        assert_eq!(names(&checks, CheckOutcome::Failed), [path::DELIVERED]);
        assert_eq!(world.target.deliveries(), 1, "{status}");
        world.assert_empty();
    }
}

#[tokio::test(start_paused = true)]
async fn run_that_is_in_the_way_is_no_failure() {
    for action in ["replay", "discard"] {
        let world = world(Broken::Busy(action));
        let checks = world.path().check().await;
        assert_eq!(names(&checks, CheckOutcome::Failed), [""; 0], "{action}");
        let busy = checks
            .iter()
            .find(|check| check.evidence.contains("in the way"));
        assert!(busy.is_some(), "{checks:#?}");
        if action == "replay" {
            world.assert_empty();
        } else {
            let left = checks.iter().find(|check| check.name == path::LEFT);
            let evidence = left.map(|check| check.evidence.as_str());
            assert!(evidence.is_some_and(|text| text.contains("is left")));
        }
    }
}

/// Replays go out twice where an answer is lost.
#[tokio::test(start_paused = true)]
async fn dead_letter_of_a_check_dies_however_often_it_is_replayed() {
    let world = world(Broken::Action("discard"));
    world.path().check().await;
    let record = world.table.only_record();
    for attempt in 4..=7 {
        let replay = json!({ "action": "replay", "eventIds": [record.event_id] });
        world.invoke(replay).await.expect("replayed");
        tokio::time::sleep(Duration::from_mins(1)).await;
        let record = world.table.only_record();
        assert_eq!(record.attempts_made, attempt);
        assert_eq!(record.state.name(), StateName::Dead);
    }
}

#[tokio::test(start_paused = true)]
async fn long_dead_letter_queue_is_left_alone() {
    let world = world(Broken::Nothing);
    for number in 0..1001 {
        let message = refused(json!({ "number": number }).to_string());
        world.letters.send(&message).await.expect("sent");
    }
    let checks = world.path().check().await;
    assert_eq!(names(&checks, CheckOutcome::Failed), [""; 0]);
    assert!(names(&checks, CheckOutcome::NotHere).contains(&path::DEAD));
    assert_eq!(world.letters.messages().len(), 1001);
}

#[tokio::test(start_paused = true)]
async fn canary_walks_without_a_dead_letter() {
    let world = world(Broken::Nothing);
    let checks = world.path().check_delivery().await;
    assert_eq!(names(&checks, CheckOutcome::Ok).len(), 6, "{checks:#?}");
    assert_eq!(world.letters.removed(), 0);
    world.assert_empty();
}

#[tokio::test(start_paused = true)]
async fn canary_names_the_step_that_fails() {
    for (broken, failed) in [
        (Broken::Processor, path::DELIVERED),
        (Broken::Secret, path::ACCEPTED),
        (Broken::Url, path::ACCEPTED),
        (Broken::Look, path::ANSWERS),
        (Broken::Action("forget"), path::LEFT),
        (Broken::Authentication, path::UNSIGNED),
    ] {
        let checks = world(broken).path().check_delivery().await;
        assert_eq!(
            names(&checks, CheckOutcome::Failed),
            [failed],
            "{broken:?}: {checks:#?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn canary_sends_nothing_while_the_breaker_is_open() {
    let world = world(Broken::Target);
    open_breaker(&world).await;
    let checks = world.path().check_delivery().await;
    assert_eq!(names(&checks, CheckOutcome::Failed), [path::BREAKER]);
    assert_eq!(world.webhooks.load(Ordering::Relaxed), 0);
}

async fn open_breaker(world: &World) {
    let circuit = Circuit {
        state: State::Open,
        ..Circuit::closed(FakeClock.now())
    };
    world.table.save_circuit(&circuit).await.expect("saved");
}
