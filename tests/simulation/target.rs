//! Model of the customer's system: accepts events, refuses them, answers late, wrongly, or not at
//! all.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::resume_unwind;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use genesys_relay::domain::check::{CheckAttempt, CheckEvent};
use genesys_relay::domain::conversation::ConversationKey;
use genesys_relay::domain::event::EventId;
use genesys_relay::ports::target::{
    Delivery, DeliveryFailure, FailureCause, OutOfOrder, Outcome, Target,
};
use http::HeaderValue;
use tokio::time::{Instant, sleep, sleep_until};

use crate::credentials::RelayClient;
use crate::faults::{Process, Service};
use crate::invariants::label_of;
use crate::lock;
use crate::mapping::Mapping;

/// Time-out of one delivery, connecting included (`TargetTimeoutSeconds`).
const TIMEOUT: Duration = Duration::from_secs(10);

/// Time at which the target is done with an event.
pub(crate) type Busy = Arc<Mutex<BTreeMap<EventId, Instant>>>;

/// The target, called over the network by one process.
#[derive(Clone)]
pub(crate) struct SimTarget {
    pub(crate) process: Process,
    /// Labels of events that it never accepts.
    pub(crate) poison: Arc<BTreeSet<String>>,
    pub(crate) refusals_per_thousand: u32,
    /// Events that it still works on; it answers 409 to another request with the same key.
    pub(crate) busy: Busy,
    pub(crate) mapping: Mapping,
    /// The process keeps the order of conversations.
    pub(crate) keeps_order: bool,
    /// Where it asks for credentials.
    pub(crate) credentials: Option<RelayClient>,
}

impl SimTarget {
    fn status(&self, status: u16) -> Outcome {
        self.process.faults().count("deliveries refused");
        Outcome::Failed(DeliveryFailure {
            response: Some("no".to_owned()),
            ..DeliveryFailure::new(FailureCause::Status(status), "refused")
        })
    }

    fn take(&self, delivery: &Delivery<'_>) {
        self.process
            .invariants()
            .taken(&self.process, delivery, self.keeps_order);
        if delivery.resend.is_some() {
            self.process.faults().count("deliveries of resends");
        }
        match delivery.order {
            Some(OutOfOrder::Late) => self.process.faults().count("deliveries marked late"),
            Some(OutOfOrder::Replayed) => self.process.faults().count("deliveries marked replayed"),
            None if self.keeps_order && ConversationKey::of(delivery.event).is_some() => {
                self.process.faults().count("deliveries in order");
            }
            None => {}
        }
    }

    /// Fails a delivery in one of many ways.
    async fn fail_somehow(&self, delivery: &Delivery<'_>, until: Instant) -> Outcome {
        let event = delivery.event;
        let faults = self.process.faults();
        match faults.random(|rng| rng.u32(..12)) {
            0..4 => self.status(faults.random(|rng| {
                *rng.choice(&[500, 502, 503, 599, 408, 425, 100, 600])
                    .unwrap_or(&500)
            })),
            4 => {
                let wait = Duration::from_secs(
                    faults.random(|rng| *rng.choice(&[0, 1, 30, 600, 9000]).unwrap_or(&1)),
                );
                match self.status(429) {
                    Outcome::Failed(failure) => Outcome::Failed(DeliveryFailure {
                        retry_after: Some(wait),
                        ..failure
                    }),
                    delivered @ Outcome::Delivered { .. } => delivered,
                }
            }
            5 => self.status(faults.random(|rng| {
                *rng.choice(&[301, 400, 401, 404, 409, 410, 423])
                    .unwrap_or(&404)
            })),
            6 => {
                faults.count("deliveries broken off");
                Outcome::Failed(DeliveryFailure::new(
                    FailureCause::Connection,
                    "the connection was reset",
                ))
            }
            7 => {
                faults.count("deliveries taken, answers lost");
                self.take(delivery);
                Outcome::Failed(DeliveryFailure::new(
                    FailureCause::Connection,
                    "the connection was reset",
                ))
            }
            8..10 => {
                faults.count("deliveries timed out");
                sleep_until(until).await;
                Outcome::Failed(DeliveryFailure::new(
                    FailureCause::TimedOut,
                    "no answer in time",
                ))
            }
            10 => {
                faults.count("deliveries taken, answers late");
                self.take(delivery);
                let more = Duration::from_secs(faults.random(|rng| rng.u64(..60)));
                lock(&self.busy).insert(event.id.clone(), until + more);
                sleep_until(until).await;
                Outcome::Failed(DeliveryFailure::new(
                    FailureCause::TimedOut,
                    "no answer in time",
                ))
            }
            _ => {
                faults.count("deliveries panicked");
                self.process.invariants().disturbed(event.id.clone());
                resume_unwind(Box::new("injected fault"))
            }
        }
    }
}

impl SimTarget {
    /// Sends one request, with a token where the target asks for one.
    async fn request(&self, delivery: &Delivery<'_>, token: Option<&HeaderValue>) -> Outcome {
        if let Err(postponed) = delivery.turn().await {
            return Outcome::Failed(postponed);
        }
        self.process.invariants().requested_of_target();
        let (event, id, faults) = (delivery.event, &delivery.event.id, self.process.faults());
        let until = delivery.deadline.min(Instant::now() + TIMEOUT);
        let work = async {
            faults.count("deliveries");
            if !self.mapping.is_enabled() {
                faults.count("deliveries while held back");
            }
            if let Some(status) = faults.away() {
                return self.status(status);
            }
            if let (Some(client), Some(token)) = (&self.credentials, token)
                && !client.is_accepted(token)
            {
                return self.refuse(Some(401));
            }
            if let Some(status) = self.credentials.as_ref().and_then(RelayClient::refusal) {
                return self.refuse(Some(status));
            }
            let takes = faults.random(|rng| {
                if rng.u32(..10) == 0 {
                    rng.u64(..9000)
                } else {
                    rng.u64(..200)
                }
            });
            if Instant::now() + Duration::from_millis(takes) >= until {
                sleep_until(until).await;
                return Outcome::Failed(DeliveryFailure::new(
                    FailureCause::TimedOut,
                    "no answer in time",
                ));
            }
            sleep(Duration::from_millis(takes)).await;
            if lock(&self.busy)
                .get(id)
                .is_some_and(|until| Instant::now() < *until)
            {
                faults.count("deliveries met by their own earlier attempt");
                return self.status(409);
            }
            if self.poison.contains(&label_of(&event.body)) {
                let plan = self.credentials.as_ref().map(RelayClient::plan);
                if plan.is_some_and(|plan| plan.poison_is_forbidden) {
                    return self.refuse(Some(403));
                }
                return self.status(faults.answer_to_poison());
            }
            if faults.should_fail(self.refusals_per_thousand) {
                return self.fail_somehow(delivery, until).await;
            }
            self.take(delivery);
            Outcome::Delivered {
                status: Some(faults.random(|rng| *rng.choice(&[200, 202, 204]).unwrap_or(&200))),
            }
        };
        let unreachable = || {
            Outcome::Failed(DeliveryFailure::new(
                FailureCause::Connection,
                "no connection",
            ))
        };
        self.process.call(Service::Target, work, unreachable).await
    }

    /// Refuses the relay's credentials, or one event in the same words.
    fn refuse(&self, status: Option<u16>) -> Outcome {
        self.process.faults().count("credentials refused");
        let cause = FailureCause::Credentials(status);
        Outcome::Failed(DeliveryFailure::new(cause, "no"))
    }

    /// Sends a request, and one more where another token may help.
    async fn requests(&self, delivery: &Delivery<'_>) -> Outcome {
        let Some(client) = &self.credentials else {
            return self.request(delivery, None).await;
        };
        let mut refused = None;
        loop {
            let token = match client.token().await {
                Ok(token) => token,
                Err(failure) => return Outcome::Failed(failure),
            };
            let outcome = self.request(delivery, Some(&token)).await;
            let unauthorized = FailureCause::Credentials(Some(401));
            let is_refused =
                matches!(&outcome, Outcome::Failed(failure) if failure.cause == unauthorized);
            if !is_refused || refused.is_some() {
                return outcome;
            }
            client.forget(&token).await;
            refused = Some(token);
        }
    }
}

impl Target for SimTarget {
    async fn deliver(&self, delivery: Delivery<'_>) -> Outcome {
        let id = &delivery.event.id;
        if let Some(check) = CheckEvent::of(delivery.event) {
            if check.outcome(delivery.attempt) != CheckAttempt::Target {
                let problem = format!("the check event {id} goes to the target");
                self.process.invariants().violate(&problem);
            }
            let faults = self.process.faults();
            faults.count("check events at the target");
            if !faults.should_fail(self.refusals_per_thousand) {
                return Outcome::Delivered { status: Some(200) };
            }
            let cause = match faults.random(|rng| rng.u32(..5)) {
                0 => FailureCause::Status(503),
                1 => FailureCause::Status(400),
                2 => FailureCause::TimedOut,
                3 => FailureCause::Connection,
                _ => FailureCause::Credentials(Some(401)),
            };
            return Outcome::Failed(DeliveryFailure::new(cause, "no"));
        }
        self.process.invariants().delivery_started(&delivery);
        let outcome = self.requests(&delivery).await;
        if let Outcome::Failed(DeliveryFailure {
            cause, retry_after, ..
        }) = &outcome
        {
            let invariants = self.process.invariants();
            invariants.heard(id, cause.status(), *retry_after);
            if let FailureCause::Credentials(status) = cause {
                invariants.uncounted(id, *status == Some(403));
            }
        }
        outcome
    }

    fn address(&self) -> String {
        "https://target.example.com/".to_owned()
    }
}
