//! `cargo local demo`: the life of events from sender to target, unattended. It checks what it
//! shows.

#![expect(
    clippy::large_futures,
    reason = "there is one of each, on the main task"
)]

mod plan;

use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use plan::{PlannedEvent, Treatment};
use serde_json::{Value, json};
use tokio::sync::Mutex;

use crate::{
    genesys_cloud::GenesysCloud,
    journey::Journey,
    screen::{Colour, Screen},
    stack::{Function, QueueCounts, Stack, StackOptions},
    target::{Behaviour, ReceivedRequest, Target},
    wait,
    workspace::Workspace,
};

/// Small, so that an event exhausts its attempts within seconds.
const MAX_RECEIVE_COUNT: usize = 4;

/// Pause between two requests of the sender. Genesys Cloud waits five seconds.
const SENDER_PAUSE: Duration = Duration::from_millis(100);

/// Webhook that was sent and that the relay must not lose.
struct Sent {
    planned: PlannedEvent,
    /// Event id in the answer.
    id: Option<String>,
}

impl Sent {
    /// Statuses that the target has answered. Deliveries are matched by the body, byte for byte.
    fn statuses(&self, requests: &[ReceivedRequest]) -> Vec<u16> {
        self.deliveries(requests)
            .filter_map(|request| request.answer.as_ref()?.status)
            .collect()
    }

    fn deliveries<'a>(
        &self,
        requests: &'a [ReceivedRequest],
    ) -> impl Iterator<Item = &'a ReceivedRequest> {
        requests
            .iter()
            .filter(|request| request.body == self.planned.webhook.body)
    }

    fn name(&self) -> String {
        let id = self.id.as_deref().unwrap_or("an event without an id");
        format!(
            "{id} ({}, {})",
            self.planned.example, self.planned.treatment
        )
    }

    /// Expected statuses before any replay.
    fn at_first(&self) -> Vec<u16> {
        self.planned.treatment.statuses(MAX_RECEIVE_COUNT)
    }

    /// Expected statuses after a replay.
    fn replayed(&self) -> Vec<u16> {
        let mut statuses = self.at_first();
        statuses.push(200);
        statuses
    }
}

/// Compares a number in an answer.
fn expect(answer: &Value, field: &str, expected: usize) -> Result<()> {
    let found = &answer[field];
    ensure!(
        *found == expected,
        "{field} is {found} instead of {expected}"
    );
    Ok(())
}

struct Demo {
    screen: Screen,
    stack: Stack,
    target: Target,
    genesys: GenesysCloud,
    journey: Mutex<Journey>,
}

/// Runs the demo.
pub async fn run(screen: Screen) -> Result<()> {
    let workspace = Workspace::locate().await?;
    let events = workspace.root.join("events");
    let (planned, (lost, ids)) = (plan::events(&events)?, plan::lost_events(&events)?);
    let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
    let target = Target::start(Behaviour::script(Treatment::answer)).await?;
    let genesys = GenesysCloud::start().await?;
    let options = StackOptions::new(target.url())
        .recovering_from(&genesys.url(), "webhook-deliveries", &ids)
        .set("MaxReceiveCount", MAX_RECEIVE_COUNT)
        .set("BackoffBaseSeconds", 1)
        .set("BackoffCapSeconds", 2);
    screen.print("Starting the local AWS and deploying template.yaml …");
    let stack = Stack::start(options).await?;
    let started = Instant::now();
    let demo = Demo {
        screen,
        stack,
        target,
        genesys,
        journey: Mutex::new(Journey::new(screen)),
    };
    demo.stack.guard(Box::pin(demo.play(planned, lost))).await?;
    let seconds = started.elapsed().as_secs();
    screen.print(&screen.paint(
        Colour::Green,
        &format!("\nEvery event is where it should be ({seconds} s)."),
    ));
    Ok(())
}

impl Demo {
    async fn play(&self, planned: Vec<PlannedEvent>, missed: Vec<PlannedEvent>) -> Result<()> {
        self.heading(
            "Genesys Cloud sends events; the target accepts some, fails on some, refuses some",
        );
        let mut sent = self.show(self.send(planned)).await?;
        let dead = sent
            .iter()
            .filter(|event| event.planned.treatment.is_dead_letter())
            .count();
        self.show(self.until_settled(&sent, Sent::at_first, dead))
            .await?;

        self.heading(
            "ingest is stopped; Genesys Cloud gives up; the recovery fetches the lost events, once",
        );
        let missed = self.show(self.lose(missed)).await?;
        for new in [missed.len(), 0] {
            let report = self.ask(Function::Recovery, json!({})).await?;
            expect(&report, "new", new)?;
        }
        sent.extend(missed);
        self.show(self.until_settled(&sent, Sent::at_first, dead))
            .await?;

        self.heading(
            "An operator reconciles, so that every dead letter has a record, and lists them",
        );
        self.replay(json!({ "action": "reconcile" })).await?;
        let list = self.replay(json!({ "action": "list" })).await?;
        expect(&list, "count", dead)?;
        let refused = sent
            .iter()
            .filter(|event| event.planned.treatment == Treatment::Refused);
        let refused: Vec<&str> = refused.filter_map(|event| event.id.as_deref()).collect();
        let [first, second, unwanted] = refused[..] else {
            bail!("{} events were refused for good", refused.len())
        };
        let shown = self
            .replay(json!({ "action": "show", "eventId": first }))
            .await?;
        ensure!(
            shown["attempts"][0]["statusCode"] == 404,
            "the record of {first} has no status code of its failure"
        );

        self.heading(
            "The target is repaired; two refused events are replayed by id, after a dry run",
        );
        self.target.behave(Behaviour::Fine);
        let two = json!([first, second]);
        let dry_run = self
            .replay(json!({ "action": "replay", "eventIds": two, "dryRun": true }))
            .await?;
        expect(&dry_run, "matched", 2)?;
        self.show(self.until_settled(&sent, Sent::at_first, dead))
            .await?;
        self.replay(json!({ "action": "replay", "eventIds": two, "why": "the orders exist now" }))
            .await?;
        let is_one_of_two = |event: &Sent| {
            event
                .id
                .as_deref()
                .is_some_and(|id| id == first || id == second)
        };
        let two_are_back = |event: &Sent| {
            if is_one_of_two(event) {
                event.replayed()
            } else {
                event.at_first()
            }
        };
        self.show(self.until_settled(&sent, two_are_back, dead - 2))
            .await?;

        self.heading("One dead letter is discarded");
        self.replay(json!({ "action": "discard", "eventIds": [unwanted], "why": "a test order" }))
            .await?;

        self.heading("The rest is archived, then restored");
        let archive = self
            .replay(json!({ "action": "archive", "olderThanDays": 0 }))
            .await?;
        expect(&archive, "archived", dead - 3)?;
        self.show(self.until_dead(0)).await?;
        let restored = self
            .replay(json!({ "action": "restore", "key": archive["keys"][0] }))
            .await?;
        expect(&restored, "restored", dead - 3)?;
        self.show(self.until_dead(dead - 3)).await?;

        self.heading("All dead letters are replayed");
        self.replay(json!({ "action": "replay", "all": true }))
            .await?;
        let comes_back = |event: &Sent| {
            event.planned.treatment.is_dead_letter() && event.id.as_deref() != Some(unwanted)
        };
        let in_the_end = |event: &Sent| {
            if comes_back(event) {
                event.replayed()
            } else {
                event.at_first()
            }
        };
        self.show(self.until_settled(&sent, in_the_end, 0)).await?;
        self.report(&sent, in_the_end).await
    }

    /// Shows the log of all functions until `work` ends.
    async fn show<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        let mut journey = self.journey.lock().await;
        let outcome = tokio::select! {
            outcome = work => outcome?,
            broken = journey.follow(&self.stack) => match broken? {},
        };
        journey.catch_up(&self.stack).await?;
        Ok(outcome)
    }

    fn heading(&self, text: &str) {
        self.screen
            .print(&self.screen.paint(Colour::Green, &format!("\n{text}")));
    }

    async fn send(&self, planned: Vec<PlannedEvent>) -> Result<Vec<Sent>> {
        let url = self.stack.webhook_url()?;
        let mut sent = Vec::new();
        for event in planned {
            let (status, answer) = event.webhook.send(&url).await?;
            let id = answer["eventId"].as_str().map(str::to_owned);
            let as_expected = if event.treatment == Treatment::NotJson {
                status == 400
            } else {
                status == 200 && id.is_some()
            };
            ensure!(
                as_expected,
                "the webhook {} was answered with {status}: {answer}",
                event.example
            );
            sent.push(Sent { planned: event, id });
        }
        Ok(sent)
    }

    /// Sends webhooks as Genesys Cloud does while ingest is stopped.
    async fn lose(&self, planned: Vec<PlannedEvent>) -> Result<Vec<Sent>> {
        let url = self.stack.webhook_url()?;
        self.stack.set_running(Function::Ingest, false).await?;
        let mut lost = Vec::new();
        for event in planned {
            ensure!(
                !self
                    .genesys
                    .deliver(&url, &event.webhook, SENDER_PAUSE)
                    .await,
                "ingest was not stopped"
            );
            lost.push(Sent {
                planned: event,
                id: None,
            });
        }
        self.stack.set_running(Function::Ingest, true).await?;
        Ok(lost)
    }

    /// Waits until the target has answered each event with these statuses, and only this many dead
    /// letters are left.
    async fn until_settled(
        &self,
        events: &[Sent],
        expected: impl Fn(&Sent) -> Vec<u16>,
        dead: usize,
    ) -> Result<()> {
        self.until_delivered(events, expected).await?;
        self.until_dead(dead).await
    }

    /// Waits until the target has answered each event with exactly these statuses, in this order.
    async fn until_delivered(
        &self,
        events: &[Sent],
        expected: impl Fn(&Sent) -> Vec<u16>,
    ) -> Result<()> {
        let as_expected = |requests: &[ReceivedRequest]| {
            events
                .iter()
                .all(|event| event.statuses(requests) == expected(event))
        };
        if self
            .target
            .until("all deliveries are made", as_expected)
            .await
            .is_ok()
        {
            return Ok(());
        }
        let requests = self.target.requests();
        let wrong = events
            .iter()
            .filter(|event| event.statuses(&requests) != expected(event));
        let lines = wrong.map(|event| {
            format!(
                "\n  {}: {:?} instead of {:?}",
                event.name(),
                event.statuses(&requests),
                expected(event)
            )
        });
        bail!(
            "Not delivered as expected within {} s. The target has answered:{}",
            wait::LIMIT.as_secs(),
            lines.collect::<String>()
        )
    }

    /// Waits until no event is in flight and this many are in the dead-letter queue.
    async fn until_dead(&self, number: usize) -> Result<()> {
        let what = format!("the queue is empty, and {number} dead letters can be received");
        let is_number = |count: u32| usize::try_from(count).is_ok_and(|count| count == number);
        let expected = |counts: QueueCounts| {
            counts.events.total() == 0
                && is_number(counts.dead_letters.visible)
                && is_number(counts.dead_letters.total())
        };
        self.stack.until_queues(&what, expected).await.map(drop)
    }

    /// Invokes a function as an operator does.
    async fn ask(&self, function: Function, request: Value) -> Result<Value> {
        self.note(&format!("invoked {function} with {request}"));
        let answer = self.show(self.stack.invoke(function, &request)).await??;
        self.note(&format!("answer: {answer}"));
        Ok(answer)
    }

    async fn replay(&self, request: Value) -> Result<Value> {
        self.ask(Function::Replay, request).await
    }

    fn note(&self, text: &str) {
        let line = format!("           {text}");
        self.screen.print(&self.screen.paint(Colour::Grey, &line));
    }

    /// Prints the statuses of each event, and checks that there were no other deliveries.
    async fn report(&self, events: &[Sent], in_the_end: impl Fn(&Sent) -> Vec<u16>) -> Result<()> {
        self.heading("Deliveries of each event");
        let requests = self.target.requests();
        for event in events {
            let expected = in_the_end(event);
            ensure!(
                event.statuses(&requests) == expected,
                "{}: delivered too often",
                event.name()
            );
            let mut steps: Vec<_> = expected.iter().map(ToString::to_string).collect();
            if event.planned.treatment.is_dead_letter() && expected.len() > event.at_first().len() {
                steps.insert(steps.len() - 1, "dead letter → replay".into());
            } else if event.planned.treatment.is_dead_letter() {
                steps.push("dead letter → discarded".into());
            }
            let Some(last) = event.deliveries(&requests).last() else {
                continue;
            };
            ensure!(
                event.id.as_ref().is_none_or(|id| *id == last.event_id),
                "{} has changed its id",
                event.name()
            );
            let source = last
                .headers
                .get("x-relay-source")
                .and_then(|source| source.to_str().ok())
                .unwrap_or_default();
            let id = self
                .screen
                .paint(Colour::of(&last.event_id), &last.event_id);
            self.screen.print(&format!(
                "{id}  {source:14}  {:14}  {}",
                event.planned.treatment,
                steps.join(" → ")
            ));
        }
        let known = |request: &ReceivedRequest| {
            events
                .iter()
                .any(|event| event.planned.webhook.body == request.body)
        };
        ensure!(
            requests.iter().all(known),
            "the target got a body that was not sent"
        );
        let states = self.stack.states().await?;
        let delivered = states.get("DELIVERED").copied().unwrap_or_default();
        let discarded = states.get("DISCARDED").copied().unwrap_or_default();
        ensure!(
            (delivered, discarded, states.len()) == (events.len() - 1, 1, 2),
            "not all events are delivered or discarded: {states:?}"
        );
        Ok(())
    }
}
