//! Scenarios in which the relay keeps the order of conversations.

use std::time::Duration;

use super::{CredentialPlan, Kind, Outage, Scenario, Sent};
use crate::faults::Service;

/// `Order` of a stack.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum OrderMode {
    #[default]
    None,
    Conversation,
    Draining,
}

impl OrderMode {
    /// True where the stack has an ordered queue.
    pub(crate) fn is_on(self) -> bool {
        self != Self::None
    }
}

/// Life of a stack that keeps the order of conversations.
#[derive(Debug, Clone)]
pub(crate) struct OrderPlan {
    /// `OrderPatienceSeconds`.
    pub(crate) patience: Duration,
    /// Modes, each with the time from which it is wanted.
    pub(crate) modes: Vec<(Duration, OrderMode)>,
    /// Receives that each message of the ordered queue begins with, so that it is near the far net.
    pub(crate) receives_before: u32,
}

impl OrderPlan {
    /// Order throughout.
    pub(crate) fn constant(patience: Duration) -> Self {
        Self {
            patience,
            modes: vec![(Duration::ZERO, OrderMode::Conversation)],
            receives_before: 0,
        }
    }
}

/// Number of the first event that belongs to a burst.
const BURST: usize = 1000;

impl Scenario {
    /// The same with order: some of its events belong to conversations, and others come in bursts.
    pub(super) fn with_order(self, rng: &mut fastrand::Rng) -> Self {
        let Self {
            length,
            concurrency,
            ..
        } = self;
        let conversations = rng.usize(1..6);
        let events = self.events.into_iter().map(|sent| {
            // The log names the conversation of a message whose webhook does not. Nothing is known of
            // the order of such messages.
            let kind = match sent.kind {
                Kind::EmptyId => Kind::Webhook,
                kind => kind,
            };
            let sent = Sent { kind, ..sent };
            let has_place = match kind {
                Kind::Webhook => rng.bool(),
                Kind::OpenMessaging | Kind::SharedId => true,
                Kind::Keyed => sent.is_distinct(),
                _ => false,
            };
            Sent {
                conversation: has_place.then(|| rng.usize(..conversations)),
                ..sent
            }
        });
        let mut events: Vec<_> = events.collect();
        for burst in 0..rng.usize(1..7) {
            events.extend(self::burst(rng, burst, conversations, length));
        }
        let mut outages = self.outages;
        if rng.u32(..4) == 0 {
            let began = length.mul_f64(rng.f64());
            let longest = (length / 4).min(Duration::from_hours(6));
            outages.push(Outage {
                service: Service::Ordered,
                during: began..began + longest.mul_f64(rng.f64()),
            });
        }
        let credentials = (rng.u32(..5) == 0).then(|| CredentialPlan::of(rng, length));
        let rate = (rng.u32(..5) == 0).then(|| rng.u32(2 * concurrency..concurrency * 30));
        // While the stack changes, functions of the old and the new kind share the rate.
        let changes = if rate.is_none() && rng.u32(..3) == 0 {
            rng.usize(1..5)
        } else {
            0
        };
        let mut times: Vec<_> = (0..changes).map(|_| length.mul_f64(rng.f64())).collect();
        times.sort_unstable();
        let cycle = [
            OrderMode::Conversation,
            OrderMode::Draining,
            OrderMode::None,
        ];
        let first = if changes > 0 { rng.usize(..3) } else { 0 };
        let modes = [Duration::ZERO].into_iter().chain(times);
        let modes = modes.zip(cycle.into_iter().cycle().skip(first)).collect();
        Self {
            events,
            outages,
            cap: if credentials.is_some() {
                Duration::from_mins(15)
            } else {
                self.cap
            },
            credentials,
            // A probe looks at two queues before its turn.
            processor_time: if rate.is_some() {
                self.processor_time.max(Duration::from_secs(20))
            } else {
                self.processor_time
            },
            rate,
            poison_is_retryable: rng.bool(),
            order: Some(OrderPlan {
                patience: Duration::from_secs(*rng.choice(&[10, 30, 120, 900]).unwrap_or(&120)),
                modes,
                receives_before: *rng.choice(&[0, 0, 0, 885, 990]).unwrap_or(&0),
            }),
            ..self
        }
    }

    /// Two conversations with poison in one of them, without faults but one planned crash.
    pub(crate) fn with_order_and_crash(crash: crate::faults::PlannedCrash) -> Self {
        let sent = |number: usize, seconds| Sent {
            number,
            kind: Kind::Webhook,
            at: vec![Duration::from_secs(seconds)],
            poison: number == 2,
            conversation: Some(number % 2),
        };
        Self {
            length: Duration::from_mins(40),
            events: (0..8)
                .map(|number| sent(number, 10 + number as u64 / 4))
                .collect(),
            outages: Vec::new(),
            requests: Vec::new(),
            recover_every: None,
            poison_is_retryable: true,
            order: Some(OrderPlan::constant(Duration::from_secs(30))),
            ..Self::with_crash(crash)
        }
    }
}

/// Events of a few conversations that come one after another, some of them twice.
fn burst(
    rng: &mut fastrand::Rng,
    burst: usize,
    conversations: usize,
    length: Duration,
) -> Vec<Sent> {
    let began = length.mul_f64(rng.f64() * if rng.bool() { 0.1 } else { 0.9 });
    let gap = *rng.choice(&[0, 200, 3000, 30_000]).unwrap_or(&200);
    let count = rng.usize(2..25);
    let mut at = began;
    let event = |number| {
        at += Duration::from_millis(rng.u64(..=gap));
        let kind = *rng
            .choice(&[Kind::Webhook, Kind::Webhook, Kind::OpenMessaging])
            .unwrap_or(&Kind::Webhook);
        let mut times = vec![at];
        if rng.u32(..6) == 0 {
            times.push(at + Duration::from_millis(rng.u64(..600_000)));
        }
        Sent {
            number: BURST * (burst + 1) + number,
            kind,
            at: times,
            poison: rng.u32(..12) == 0,
            conversation: Some(rng.usize(..conversations)),
        }
    };
    (0..count).map(event).collect()
}
