//! The customer's system: takes events, refuses them, answers late, with what is no answer, or not at all.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::resume_unwind;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use genesys_relay::domain::event::{Event, EventId};
use genesys_relay::ports::target::{Delivery, DeliveryFailure, FailureCause, Outcome, Target};
use tokio::time::{Instant, sleep, sleep_until};

use crate::faults::{Process, Service};
use crate::law::label_of;
use crate::lock;
use crate::mapping::Mapping;

/// One delivery may take this long, connecting included (`TargetTimeoutSeconds`).
const TIMEOUT: Duration = Duration::from_secs(10);

/// Events by the time at which the target has dealt with them.
pub(crate) type Busy = Arc<Mutex<BTreeMap<EventId, Instant>>>;

/// The target as one process of the processor sees it.
#[derive(Clone)]
pub(crate) struct SimTarget {
    pub(crate) process: Process,
    /// What it refuses for good.
    pub(crate) poison: Arc<BTreeSet<String>>,
    pub(crate) refusals_per_thousand: u32,
    /// What it is still working on, and until when: it knows events by their key, and answers 409 meanwhile.
    pub(crate) busy: Busy,
    /// Whether events are held back.
    pub(crate) mapping: Mapping,
}

impl SimTarget {
    fn status(&self, status: u16) -> Outcome {
        self.process.weather().count("deliveries refused");
        Outcome::Failed(DeliveryFailure { response: Some("no".to_owned()), ..DeliveryFailure::new(FailureCause::Status(status), "refused") })
    }

    /// One of the ways in which a delivery can go wrong.
    async fn misbehave(&self, event: &Event, until: Instant) -> Outcome {
        let weather = self.process.weather();
        match weather.dice(|rng| rng.u32(..12)) {
            0..4 => {
                self.status(weather.dice(|rng| *rng.choice(&[500, 502, 503, 599, 408, 425, 100, 600]).unwrap_or(&500)))
            }
            4 => {
                let wait = Duration::from_secs(weather.dice(|rng| *rng.choice(&[0, 1, 30, 600, 9000]).unwrap_or(&1)));
                match self.status(429) {
                    Outcome::Failed(failure) => Outcome::Failed(DeliveryFailure { retry_after: Some(wait), ..failure }),
                    delivered @ Outcome::Delivered { .. } => delivered,
                }
            }
            5 => self.status(weather.dice(|rng| *rng.choice(&[301, 400, 401, 404, 409, 410, 423]).unwrap_or(&404))),
            6 => {
                weather.count("deliveries broken off");
                Outcome::Failed(DeliveryFailure::new(FailureCause::Connection, "the connection was reset"))
            }
            7 => {
                weather.count("deliveries taken, answers lost");
                self.process.law().taken(event);
                Outcome::Failed(DeliveryFailure::new(FailureCause::Connection, "the connection was reset"))
            }
            8..10 => {
                weather.count("deliveries timed out");
                sleep_until(until).await;
                Outcome::Failed(DeliveryFailure::new(FailureCause::TimedOut, "no answer in time"))
            }
            10 => {
                weather.count("deliveries taken, answers late");
                self.process.law().taken(event);
                let more = Duration::from_secs(weather.dice(|rng| rng.u64(..60)));
                lock(&self.busy).insert(event.id.clone(), until + more);
                sleep_until(until).await;
                Outcome::Failed(DeliveryFailure::new(FailureCause::TimedOut, "no answer in time"))
            }
            _ => {
                weather.count("deliveries panicked");
                self.process.law().disturbed(event.id.clone());
                resume_unwind(Box::new("as the weather has it"))
            }
        }
    }
}

impl Target for SimTarget {
    async fn deliver(&self, delivery: Delivery<'_>) -> Outcome {
        let (event, id, weather) = (delivery.event, &delivery.event.id, self.process.weather());
        self.process.law().delivery_begins(id);
        let until = delivery.deadline.min(Instant::now() + TIMEOUT);
        let work = async {
            weather.count("deliveries");
            if !self.mapping.is_enabled() {
                weather.count("deliveries while held back");
            }
            if let Some(status) = weather.away() {
                return self.status(status);
            }
            let takes = weather.dice(|rng| if rng.u32(..10) == 0 { rng.u64(..9000) } else { rng.u64(..200) });
            if Instant::now() + Duration::from_millis(takes) >= until {
                sleep_until(until).await;
                return Outcome::Failed(DeliveryFailure::new(FailureCause::TimedOut, "no answer in time"));
            }
            sleep(Duration::from_millis(takes)).await;
            if lock(&self.busy).get(id).is_some_and(|until| Instant::now() < *until) {
                weather.count("deliveries met by their own earlier attempt");
                return self.status(409);
            }
            if self.poison.contains(&label_of(&event.body)) {
                return self.status(weather.answer_to_poison());
            }
            if weather.strikes(self.refusals_per_thousand) {
                return self.misbehave(event, until).await;
            }
            self.process.law().taken(event);
            Outcome::Delivered { status: Some(weather.dice(|rng| *rng.choice(&[200, 202, 204]).unwrap_or(&200))) }
        };
        let unreachable = || Outcome::Failed(DeliveryFailure::new(FailureCause::Connection, "no connection"));
        let outcome = self.process.call(Service::Target, work, unreachable).await;
        if let Outcome::Failed(DeliveryFailure { cause, retry_after, .. }) = &outcome {
            self.process.law().heard(id, cause.status(), *retry_after);
        }
        outcome
    }

    fn address(&self) -> String {
        "https://target.example.com/".to_owned()
    }
}
