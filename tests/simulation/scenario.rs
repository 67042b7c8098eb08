//! Scenario of a run: everything that a seed decides.

mod journal;
mod order;

use std::collections::BTreeSet;
use std::num::NonZeroU32;
use std::ops::Range;
use std::time::Duration;

use genesys_relay::domain::check::{CheckAttempt, CheckEvent};
use genesys_relay::domain::event::{EventId, Identity, SenderKey};
use genesys_relay::domain::json::Json;
use genesys_relay::domain::retry::Schedule;
use genesys_relay::ports::clock::Clock as _;
use genesys_relay::ports::pace::Pace;
use genesys_relay::testing::FakeClock;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use uuid::Uuid;

pub(crate) use self::journal::{JournalPlan, journal_request};
pub(crate) use self::order::{OrderMode, OrderPlan};
use crate::faults::{PlannedCrash, Service};

/// Largest error of a clock. Two clocks differ by at most twice this; the relay allows for 5 s.
const SKEW_MILLIS: i64 = 2000;

/// Time in which a service is down.
#[derive(Debug, Clone)]
pub(crate) struct Outage {
    pub(crate) service: Service,
    pub(crate) during: Range<Duration>,
}

/// Scenario of one run.
#[derive(Debug, Clone)]
pub(crate) struct Scenario {
    pub(crate) seed: u64,
    /// Time until all faults end.
    pub(crate) length: Duration,
    pub(crate) events: Vec<Sent>,
    pub(crate) outages: Vec<Outage>,
    pub(crate) faults_per_thousand: u32,
    pub(crate) crashes_per_thousand: u32,
    /// Deliveries that fail while the target is not down.
    pub(crate) refusals_per_thousand: u32,
    /// Time in which the target answers everything with this status.
    pub(crate) away: Option<(Range<Duration>, u16)>,
    /// Queues return messages twice and in any order.
    pub(crate) disorder: bool,
    /// Clocks of processes are wrong.
    pub(crate) clocks_differ: bool,
    /// Longest duration of each way of a call.
    pub(crate) slowness: Duration,
    pub(crate) base: Duration,
    pub(crate) cap: Duration,
    pub(crate) max_receives: u32,
    pub(crate) batch: usize,
    pub(crate) concurrency: u32,
    pub(crate) processor_time: Duration,
    pub(crate) reconcile_every: Duration,
    pub(crate) archive_every: Duration,
    pub(crate) recover_every: Option<Duration>,
    /// Interval of the breaker's runs, where there is one.
    pub(crate) breaker_every: Option<Duration>,
    /// Average time between two requests of an operator, where there is one.
    pub(crate) operator_every: Option<Duration>,
    /// Time at which the sender gets a new secret.
    pub(crate) rotation: Option<Duration>,
    /// Planned requests of operators.
    pub(crate) requests: Vec<(Duration, Value)>,
    /// The only crash, where it is planned.
    pub(crate) crash: Option<PlannedCrash>,
    /// The target answers 500 to poison events instead of refusing them for good.
    pub(crate) poison_is_retryable: bool,
    /// Batches that Lambda throttles; half as often it loses a delete or an answer.
    pub(crate) throttled_per_thousand: u32,
    /// Upper bound on the requests a second, where there is one.
    pub(crate) rate: Option<u32>,
    /// Longest time that Lambda takes to start a process of the processor.
    pub(crate) longest_start: Duration,
    /// Check events, and the times at which they are posted.
    pub(crate) checks: Vec<(Duration, CheckEvent)>,
    /// Longest time between two overrides of the breaker, where an operator makes some.
    pub(crate) overrides_within: Option<Duration>,
    /// Credentials that the target asks for, where it does.
    pub(crate) credentials: Option<CredentialPlan>,
    /// Order of conversations, where the relay keeps it.
    pub(crate) order: Option<OrderPlan>,
    /// Journal of delivered events, where the relay keeps it.
    pub(crate) journal: Option<JournalPlan>,
}

/// Life of the credentials that the target asks for.
#[derive(Debug, Clone)]
pub(crate) struct CredentialPlan {
    /// Life of a token.
    pub(crate) token_life: Duration,
    /// Times at which all tokens are revoked.
    pub(crate) revoked_at: Vec<Duration>,
    /// Times from the rotation of the secret at the target until the relay has the new one.
    pub(crate) wrong: Vec<Range<Duration>>,
    /// Times in which the target refuses every token with this status: new ones are not known to it
    /// yet (401), or the client may not do anything (403).
    pub(crate) refused: Vec<(Range<Duration>, u16)>,
    /// The target answers 403 to poison events, as to credentials without permission.
    pub(crate) poison_is_forbidden: bool,
}

impl CredentialPlan {
    fn of(rng: &mut fastrand::Rng, length: Duration) -> Self {
        // Many attempts of an event, and less than the three days after which they count.
        let longest = (length / 3).min(Duration::from_hours(1));
        let times = |rng: &mut fastrand::Rng, most| -> Vec<_> {
            (0..rng.u32(..most))
                .map(|_| {
                    let began = length.mul_f64(rng.f64());
                    began..(began + longest.mul_f64(rng.f64())).min(length)
                })
                .collect()
        };
        let wrong = times(rng, 4);
        let refused = times(rng, 3).into_iter().zip([403, 401]).collect();
        Self {
            wrong,
            refused,
            token_life: Duration::from_secs(*rng.choice(&[30, 600, 3600, 86_400]).unwrap_or(&3600)),
            revoked_at: (0..rng.u32(..4))
                .map(|_| length.mul_f64(rng.f64()))
                .collect(),
            poison_is_forbidden: rng.bool(),
        }
    }
}

/// A check event at a random time, the attempts at which end in random ways.
fn check(rng: &mut fastrand::Rng, length: Duration) -> (Duration, CheckEvent) {
    use CheckAttempt::{Deliver, Refuse, Retry, Target};
    let attempts = (0..rng.usize(..4)).map(|_| {
        *rng.choice(&[Deliver, Refuse, Retry, Retry, Target])
            .unwrap_or(&Deliver)
    });
    let attempts = attempts.collect();
    let check = CheckEvent {
        run: Uuid::from_u128(rng.u128(..)),
        name: "a step".to_owned(),
        attempts,
    };
    (length.mul_f64(rng.f64()), check)
}

/// Groups of events that are equal or share an id.
const GROUPS: usize = 2;

/// Kinds of events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Webhook,
    OpenMessaging,
    /// Any JSON, identified by a key of the sender.
    Keyed,
    /// Any JSON with a body that others share, identified by one of two keys; the other key is
    /// constant.
    TwoKeys,
    /// An envelope with a body and time that others share, identified by a key.
    KeyedEnvelope,
    /// Any JSON, with a constant key.
    StaticKey,
    /// Any JSON with a body that others share: a Data Action without a time.
    Equal,
    /// An envelope and a key whose template was not filled in; others share the body.
    Unfilled,
    /// A message of Open Messaging without an id.
    EmptyId,
    /// A message of Open Messaging with an id and time that others share.
    SharedId,
    /// A body that is not JSON.
    Malformed,
    /// An event that a rule of EventBridge puts into the events queue, without attributes.
    EventBridge,
}

/// Event of Genesys Cloud.
#[derive(Debug, Clone)]
pub(crate) struct Sent {
    pub(crate) number: usize,
    pub(crate) kind: Kind,
    /// Times at which it is sent: once, and once more for each duplicate.
    pub(crate) at: Vec<Duration>,
    /// The target never accepts it.
    pub(crate) poison: bool,
    /// Conversation that it belongs to, where its body names one.
    pub(crate) conversation: Option<usize>,
}

impl Sent {
    /// Label that its body contains. Equal events share one; only the sender knows their number.
    pub(crate) fn label(&self) -> String {
        match self.kind {
            Kind::Equal => format!("<equal-{}>", self.number % GROUPS),
            Kind::Unfilled => format!("<unfilled-{}>", self.number % GROUPS),
            Kind::TwoKeys => "<two-keys>".to_owned(),
            Kind::KeyedEnvelope => "<keyed-envelope>".to_owned(),
            _ => format!("<event-{}>", self.number),
        }
    }

    /// Message id that it shares with others.
    pub(crate) fn shared_id(&self) -> Option<String> {
        (self.kind == Kind::SharedId).then(|| format!("shared-{}", self.number % GROUPS))
    }

    /// True where all its requests are known as one event. A key alone counts for one day, and only
    /// with a known time.
    pub(crate) fn is_distinct(&self) -> bool {
        match self.kind {
            Kind::Webhook | Kind::OpenMessaging | Kind::EventBridge | Kind::KeyedEnvelope => true,
            Kind::Keyed | Kind::TwoKeys => self.has_logged_time() && self.is_of_one_day(),
            Kind::StaticKey
            | Kind::Equal
            | Kind::Unfilled
            | Kind::EmptyId
            | Kind::SharedId
            | Kind::Malformed => false,
        }
    }

    /// True where the log has the time at which it was sent.
    pub(crate) fn has_logged_time(&self) -> bool {
        !self.number.is_multiple_of(4)
    }

    /// True where all its requests fall on one UTC day by any clock.
    fn is_of_one_day(&self) -> bool {
        // A run begins at noon.
        let day = |at: Duration| (at + Duration::from_hours(12)).as_secs() / (24 * 3600);
        let around = |at: &Duration| {
            [
                day(at.saturating_sub(Duration::from_mins(1))),
                day(*at + Duration::from_mins(10)),
            ]
        };
        self.at
            .iter()
            .flat_map(around)
            .collect::<BTreeSet<u64>>()
            .len()
            == 1
    }

    /// True where the log has a rebuilt body.
    pub(crate) fn is_rewritten(&self) -> bool {
        matches!(
            self.kind,
            Kind::OpenMessaging | Kind::EmptyId | Kind::SharedId
        )
    }

    /// Body of the nth request.
    pub(crate) fn body(&self, nth: usize) -> Vec<u8> {
        let Self { number, .. } = self;
        let (tab, id) = (if nth.is_multiple_of(2) { "" } else { " " }, self.label());
        let conversation = self
            .conversation
            .map(|number| format!(r#","conversationId":"c-{number}""#))
            .unwrap_or_default();
        let open_messaging = |message_id: &str, time: &str| {
            let mut message = json!({
                "id": message_id, "type": "Text", "text": id, "direction": "Outbound",
                "channel": { "id": "integration", "platform": "Open", "type": "Private", "time": time },
            })
            .to_string();
            message.truncate(message.len() - 1);
            format!("{message}{conversation}}}").into_bytes()
        };
        match self.kind {
            Kind::StaticKey | Kind::Equal | Kind::TwoKeys | Kind::Keyed => {
                format!(r#"{{{tab}"order":"{id}"{conversation}}}"#).into_bytes()
            }
            Kind::Unfilled => {
                let times = [r#""${input.timestamp}""#, "null", r#""""#, r#""2026-01-15""#];
                let time = times[number % GROUPS % times.len()];
                format!(r#"{{"webhookId":"hook","payload":{{"name":"{id}"}},{tab}"timestamp":{time}}}"#).into_bytes()
            }
            Kind::EmptyId => open_messaging("", &format!("2026-01-15T12:00:00.{number:03}Z")),
            Kind::SharedId => open_messaging(&self.shared_id().unwrap_or_default(), "2026-01-15T12:00:00Z"),
            Kind::Webhook => format!(
                r#"{{"webhookId":"hook-{}","payload":{{"name":"{id}"{conversation}}},{tab}"timestamp":"2026-01-15T12:00:00Z"}}"#,
                number % 3
            )
            .into_bytes(),
            Kind::KeyedEnvelope => {
                format!(r#"{{"webhookId":"hook","payload":{{"name":"{id}"}},{tab}"timestamp":"2026-01-15T12:00:00Z"}}"#)
                    .into_bytes()
            }
            Kind::OpenMessaging => open_messaging(&format!("message-{number}"), "2026-01-15T12:00:00Z"),
            Kind::Malformed => format!("{id} is no JSON").into_bytes(),
            Kind::EventBridge => {
                let mut event = json!({
                    "version": "0", "id": format!("envelope-{number}-{nth}"), "detail-type": "v2.detail.events.{id}",
                    "source": "aws.partner/genesys.com/cloud/relay", "time": "2026-01-15T12:00:00Z",
                    "detail": {
                        "topicName": "v2.detail.events", "version": "2", "timestamp": "2026-01-15T12:00:00Z",
                        "eventBody": { "name": id },
                    },
                });
                if let Some(conversation) = self.conversation {
                    // An erasure asks for the time.
                    let began: Timestamp = "2026-01-15T12:00:00Z".parse().expect("a time");
                    event["time"] = json!(began + self.at[nth]);
                    event["detail"]["eventBody"]["conversationId"] = json!(format!("c-{conversation}"));
                }
                event.to_string().into_bytes()
            }
        }
    }

    /// Its id, where it has an identity.
    pub(crate) fn id(&self) -> Option<EventId> {
        let body = self.body(0);
        let json = Json::parse(&body).ok()?;
        let mut has_identity = true;
        let lone = || {
            has_identity = false;
            EventId::of_request(FakeClock.now(), 0)
        };
        let id = Identity::of(json, FakeClock.now(), self.key().as_ref(), lone).id;
        has_identity.then_some(id)
    }

    /// The values of `Idempotency-Key` and of `webhook-id`.
    pub(crate) fn keys(&self) -> [Option<String>; 2] {
        let (own, once) = (format!("key-{}", self.number), "configured-once".to_owned());
        match self.kind {
            Kind::Keyed => [Some(own), None],
            Kind::TwoKeys if self.number.is_multiple_of(2) => [Some(once), Some(own)],
            Kind::TwoKeys => [Some(own), Some(once)],
            Kind::KeyedEnvelope if self.number.is_multiple_of(2) => {
                [Some("$input.key".to_owned()), Some(own)]
            }
            Kind::KeyedEnvelope => [None, Some(own)],
            Kind::StaticKey => [Some(once), None],
            Kind::Unfilled => [Some("${input.key}".to_owned()), None],
            _ => [None, None],
        }
    }

    pub(crate) fn key(&self) -> Option<SenderKey> {
        let [idempotency_key, webhook_id] = self.keys();
        SenderKey::of(idempotency_key.as_deref(), webhook_id.as_deref())
    }
}

impl Scenario {
    pub(crate) fn of(seed: u64) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let minutes = Duration::from_mins;
        let length = match rng.u32(..100) {
            0..35 => minutes(rng.u64(10..60)),
            35..80 => minutes(rng.u64(60..6 * 60)),
            80..95 => minutes(rng.u64(6 * 60..3 * 24 * 60)),
            _ => minutes(rng.u64(11 * 24 * 60..18 * 24 * 60)),
        };
        let is_long = length > minutes(24 * 60);
        let count = if rng.u32(..10) == 0 {
            rng.usize(15..50)
        } else {
            rng.usize(1..15)
        };
        let max_receives = *rng.choice(&[2, 3, 4, 10, 10]).unwrap_or(&10);
        let outages = (0..rng.usize(..5))
            .map(|_| outage(&mut rng, length))
            .collect();
        let scenario = Self {
            seed,
            length,
            events: (0..count)
                .map(|number| sent(&mut rng, number, length))
                .collect(),
            outages,
            // A dead letter of 10 days has eight runs of the archive left. Weeks in which every run
            // meets a fault are left out.
            faults_per_thousand: *rng
                .choice(if is_long {
                    &[0, 5, 5, 30, 30]
                } else {
                    &[0, 5, 30, 30, 150]
                })
                .unwrap_or(&0),
            crashes_per_thousand: *rng.choice(&[0, 10, 50, 200]).unwrap_or(&0),
            refusals_per_thousand: *rng.choice(&[0, 100, 300, 900]).unwrap_or(&0),
            away: None,
            disorder: rng.bool(),
            clocks_differ: rng.bool(),
            slowness: Duration::from_millis(*rng.choice(&[20, 20, 200, 1500]).unwrap_or(&20)),
            base: Duration::from_secs(rng.u64(1..5)),
            cap: Duration::from_secs(*rng.choice(&[5, 60, 900]).unwrap_or(&900)),
            max_receives,
            batch: *rng.choice(&[1, 10, 10]).unwrap_or(&10),
            concurrency: rng.u32(2..6),
            processor_time: Duration::from_secs(*rng.choice(&[10, 20, 60]).unwrap_or(&60)),
            reconcile_every: if is_long { length / 200 } else { minutes(5) },
            archive_every: if is_long {
                minutes(12 * 60)
            } else {
                length * 2
            },
            recover_every: rng
                .bool()
                .then_some(if is_long { length / 200 } else { minutes(5) }),
            operator_every: (rng.u32(..4) > 0).then_some(length / rng.u32(5..40)),
            rotation: (rng.u32(..4) == 0).then(|| length / rng.u32(2..6)),
            requests: Vec::new(),
            crash: None,
            poison_is_retryable: false,
            throttled_per_thousand: 20,
            rate: None,
            longest_start: Duration::ZERO,
            checks: Vec::new(),
            overrides_within: None,
            credentials: None,
            order: None,
            journal: None,
            // Weeks of minutes take too long.
            breaker_every: (length < minutes(6 * 60) && rng.u32(..6) == 0).then_some(minutes(1)),
        };
        // Of their own, so that the rest of a scenario stays as it was without them.
        let mut more = fastrand::Rng::with_seed(seed ^ 0xc4ed);
        let has_credentials = seed % 10 == 2;
        // Nor do check events change the rest of it.
        let mut checks = fastrand::Rng::with_seed(seed ^ 0xc4ec);
        let count = if seed % 3 == 1 { checks.u32(1..8) } else { 0 };
        let scenario = Self {
            checks: (0..count).map(|_| check(&mut checks, length)).collect(),
            poison_is_retryable: scenario.breaker_every.is_some() && seed.is_multiple_of(2),
            rate: (has_credentials && more.bool())
                .then(|| more.u32(scenario.concurrency..scenario.concurrency * 20)),
            credentials: has_credentials.then(|| CredentialPlan::of(&mut more, length)),
            // Attempts that do not count have no end, and a shorter delay only makes more of them.
            cap: if has_credentials {
                Duration::from_mins(15)
            } else {
                scenario.cap
            },
            ..scenario
        };
        match seed % 20 {
            4 | 14 => scenario.with_order(&mut more),
            6 => scenario.with_journal(&mut more),
            _ => scenario,
        }
    }

    /// A target whose credentials expire, are revoked and rotate; nothing else fails.
    pub(crate) fn with_credentials(seed: u64) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed ^ 0x0a17);
        let length = Duration::from_mins(rng.u64(30..12 * 60));
        let count = rng.u32(10..60);
        let events = (0..count).map(|number| Sent {
            number: number as usize,
            kind: Kind::Webhook,
            // The first come at the same moment.
            at: vec![length.mul_f64(if number < 20 { 0.1 } else { rng.f64() * 0.9 })],
            poison: false,
            conversation: None,
        });
        let events = events.collect();
        let breaker_every = rng.bool().then_some(Duration::from_mins(1));
        let concurrency = *rng.choice(&[2, 10]).unwrap_or(&2);
        let mut plan = CredentialPlan::of(&mut rng, length);
        // A 403 may be about the event.
        plan.refused
            .iter_mut()
            .for_each(|(_, status)| *status = 401);
        Self {
            seed,
            length,
            events,
            away: None,
            max_receives: *rng.choice(&[4, 10]).unwrap_or(&4),
            concurrency,
            batch: *rng.choice(&[1, 10]).unwrap_or(&10),
            breaker_every,
            throttled_per_thousand: 0,
            rate: rng.bool().then(|| rng.u32(concurrency..concurrency * 4)),
            credentials: Some(plan),
            ..Self::with_breaker(503, length, None)
        }
    }

    /// A breaker before a target with a bound on its rate that all invocations use up: each sends for
    /// most of two minutes, also after the mapping is disabled. Breaker and probes crash, answers of probes
    /// are lost, and an operator overrides the breaker.
    pub(crate) fn with_rate(seed: u64) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed ^ 0x4a7e);
        let length = Duration::from_mins(30);
        let concurrency = rng.u32(2..4);
        let began = Duration::from_secs(rng.u64(60..180));
        let sent = |number: u32, at| Sent {
            number: number as usize,
            kind: Kind::Webhook,
            at: vec![at],
            poison: false,
            conversation: None,
        };
        // With a short backoff their retries keep all invocations busy for minutes.
        let burst = concurrency * 50;
        let events = (0..burst).map(|number| sent(number, began));
        let later = (burst..burst + 20).map(|number| sent(number, length.mul_f64(rng.f64())));
        Self {
            seed,
            length,
            events: events.chain(later).collect(),
            away: Some((began..began + Duration::from_mins(rng.u64(3..15)), 503)),
            concurrency,
            // More than SQS hands out at once: as many as an invocation can send.
            batch: 100,
            processor_time: Duration::from_mins(2),
            cap: Duration::from_secs(5),
            clocks_differ: rng.bool(),
            crashes_per_thousand: *rng.choice(&[0, 50]).unwrap_or(&0),
            throttled_per_thousand: 200,
            rate: Some(concurrency),
            longest_start: Duration::from_secs(10),
            checks: Vec::new(),
            overrides_within: rng.bool().then_some(Duration::from_mins(4)),
            ..Self::with_breaker(503, length, None)
        }
    }

    /// A breaker before a target that fails on poison events, has an outage, or both; other faults
    /// are rare.
    pub(crate) fn with_retryable_poison(seed: u64) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed ^ 0xd16e);
        let minutes = Duration::from_mins;
        let length = minutes(rng.u64(60..6 * 60));
        let every = (length / rng.u32(30..250)).max(Duration::from_secs(2));
        let bad_of_ten = rng.u32(..6);
        let sent = |number, at, poison| Sent {
            number,
            kind: Kind::Webhook,
            at: vec![at],
            poison,
            conversation: None,
        };
        let steady = (0..)
            .map(|number: u32| (number, every * number))
            .take_while(|(_, at)| *at < length);
        let mut events: Vec<_> = steady
            .map(|(number, at)| sent(number as usize, at, rng.u32(..10) < bad_of_ten))
            .collect();
        // Bursts of poison events.
        for burst in 1..=rng.usize(..3) {
            let at = length.mul_f64(rng.f64());
            let count = rng.usize(5..40);
            events.extend((0..count).map(|number| sent(1_000_000 * burst + number, at, true)));
        }
        let began = length.mul_f64(rng.f64() * 0.5);
        let away = rng
            .bool()
            .then(|| began..began + length.mul_f64(rng.f64() * 0.4));
        Self {
            seed,
            length,
            events,
            away: away.map(|during| (during, 503)),
            disorder: rng.bool(),
            clocks_differ: rng.bool(),
            faults_per_thousand: *rng.choice(&[0, 0, 5, 30]).unwrap_or(&0),
            concurrency: *rng.choice(&[2, 10, 50]).unwrap_or(&10),
            max_receives: *rng.choice(&[2, 4, 10, 10]).unwrap_or(&10),
            poison_is_retryable: true,
            ..Self::with_breaker(503, length, None)
        }
    }

    /// A breaker before a target with one long outage; no other faults but one planned crash, if
    /// any.
    pub(crate) fn with_breaker(
        status: u16,
        outage_length: Duration,
        crash: Option<PlannedCrash>,
    ) -> Self {
        let minutes = Duration::from_mins;
        let at = |number: u32| outage_length * number / 100 + Duration::from_secs(1);
        let sent = |number: u32| Sent {
            number: number as usize,
            kind: Kind::Webhook,
            at: vec![at(number)],
            poison: false,
            conversation: None,
        };
        // A few at the start, then one at a time.
        let first = (100..106).map(|number| Sent {
            at: vec![Duration::from_secs(1)],
            ..sent(number)
        });
        Self {
            length: outage_length + minutes(30),
            events: first.chain((0..100).map(sent)).collect(),
            outages: Vec::new(),
            away: Some((minutes(0)..outage_length, status)),
            cap: minutes(15),
            max_receives: 10,
            archive_every: minutes(24 * 60),
            reconcile_every: minutes(5),
            recover_every: None,
            requests: Vec::new(),
            breaker_every: Some(minutes(1)),
            crash,
            ..Self::with_crash(PlannedCrash {
                of: "none",
                nth: 0,
                after: 0,
            })
        }
    }

    /// Twelve days in which each function has work of each kind, without faults but one planned
    /// crash.
    pub(crate) fn with_crash(crash: PlannedCrash) -> Self {
        let minutes = Duration::from_mins;
        let sent = |number, kind, at, poison| Sent {
            number,
            kind,
            at,
            poison,
            conversation: None,
        };
        let discarded = sent(5, Kind::Webhook, vec![minutes(72)], true);
        let discarded_id = discarded.id();
        Self {
            length: minutes(12 * 24 * 60),
            events: vec![
                sent(0, Kind::Webhook, vec![minutes(1), minutes(1)], false),
                sent(1, Kind::Webhook, vec![minutes(70)], true),
                sent(2, Kind::Malformed, vec![minutes(2)], false),
                sent(3, Kind::OpenMessaging, vec![minutes(31)], false),
                sent(4, Kind::EventBridge, vec![minutes(71)], false),
                discarded,
            ],
            outages: vec![
                Outage {
                    service: Service::Target,
                    during: minutes(0)..minutes(60),
                },
                Outage {
                    service: Service::Events,
                    during: minutes(30)..minutes(33),
                },
            ],
            faults_per_thousand: 0,
            crashes_per_thousand: 0,
            refusals_per_thousand: 0,
            away: None,
            disorder: false,
            clocks_differ: false,
            slowness: Duration::from_millis(20),
            base: Duration::from_secs(2),
            cap: minutes(1),
            max_receives: 4,
            batch: 10,
            concurrency: 2,
            processor_time: minutes(1),
            reconcile_every: minutes(6 * 60),
            archive_every: minutes(24 * 60),
            recover_every: Some(minutes(6 * 60)),
            breaker_every: None,
            operator_every: None,
            rotation: None,
            requests: vec![
                (
                    minutes(80),
                    json!({ "action": "replay", "filter": { "reason": "exhausted" } }),
                ),
                (
                    minutes(110),
                    json!({ "action": "replay", "filter": { "reason": "permanent" } }),
                ),
                (
                    minutes(140),
                    json!({ "action": "discard", "eventIds": [discarded_id], "why": "not needed" }),
                ),
                (
                    minutes(170),
                    json!({ "action": "archive", "olderThanDays": 0 }),
                ),
            ],
            crash: Some(crash),
            poison_is_retryable: false,
            throttled_per_thousand: 20,
            rate: None,
            longest_start: Duration::ZERO,
            checks: Vec::new(),
            overrides_within: None,
            credentials: None,
            order: None,
            journal: None,
            seed: 0,
        }
    }

    pub(crate) fn schedule(&self) -> Schedule {
        Schedule::new(self.base, self.cap, self.max_receives).expect("a schedule")
    }

    /// The bound on the rate, for a process.
    pub(crate) fn pace(&self) -> Option<Pace> {
        // With order there is a second mapping.
        let mappings = if self.order.is_some() { 2 } else { 1 };
        let concurrency = NonZeroU32::new(self.concurrency * mappings)?;
        let rate = self.rate.and_then(NonZeroU32::new)?;
        Some(Pace::new(rate, concurrency, self.request_time()))
    }

    /// Time that a processor allows for one request, as its configuration has it.
    pub(crate) fn request_time(&self) -> Duration {
        Duration::from_secs(10).min(self.processor_time / 2)
    }

    /// Visibility timeout of the events queue: six times the function's time-out.
    pub(crate) fn visibility(&self) -> Duration {
        self.processor_time * 6
    }

    /// Error of the clock of one process.
    pub(crate) fn skew(&self, rng: &mut fastrand::Rng) -> SignedDuration {
        let most = if self.clocks_differ { SKEW_MILLIS } else { 0 };
        SignedDuration::from_millis(rng.i64(-most..=most))
    }
}

fn outage(rng: &mut fastrand::Rng, length: Duration) -> Outage {
    let service = *rng.choice(&Service::ALL).unwrap_or(&Service::Target);
    // A dead letter is archived after 10 days and expires after 14; an outage of the archive is
    // shorter than the difference.
    let longest = (length / 3).min(Duration::from_hours(24));
    let begin = length.mul_f64(rng.f64());
    Outage {
        service,
        during: begin..begin + longest.mul_f64(rng.f64()),
    }
}

fn sent(rng: &mut fastrand::Rng, number: usize, length: Duration) -> Sent {
    let kind = match rng.u32(..20) {
        0..5 => Kind::Webhook,
        5..7 => Kind::OpenMessaging,
        7..9 => [Kind::Keyed, Kind::TwoKeys, Kind::KeyedEnvelope][number % 3],
        9 => Kind::Malformed,
        10..12 => Kind::EventBridge,
        12 => Kind::StaticKey,
        13..15 => Kind::Equal,
        15..17 => Kind::Unfilled,
        17 => Kind::EmptyId,
        _ => Kind::SharedId,
    };
    let is_one_of_many = matches!(
        kind,
        Kind::Equal | Kind::Unfilled | Kind::SharedId | Kind::TwoKeys | Kind::KeyedEnvelope
    );
    // Most are early, so that their retries meet faults too; some at the same moment.
    let first = length.mul_f64(rng.f64() * if rng.bool() { 0.1 } else { 0.8 });
    let mut at = vec![first];
    while kind != Kind::Malformed && rng.u32(..4) == 0 {
        let gap = match rng.u32(..3) {
            0 => Duration::ZERO,
            1 => Duration::from_millis(rng.u64(..60_000)),
            _ => Duration::from_secs(rng.u64(..length.as_secs() / 4)),
        };
        at.push(first + gap);
    }
    Sent {
        number,
        kind,
        at,
        poison: rng.u32(..8) == 0 && !is_one_of_many,
        conversation: None,
    }
}

/// Random request of a careless operator.
pub(crate) fn request(rng: &mut fastrand::Rng, listed: &[String], archived: &[String]) -> Value {
    let some = |rng: &mut fastrand::Rng| {
        let count = rng.usize(1..4);
        let ids: BTreeSet<_> = (0..count).filter_map(|_| rng.choice(listed)).collect();
        json!(ids)
    };
    let (force, why) = if rng.u32(..8) == 0 {
        (true, "force")
    } else {
        (false, "as asked")
    };
    match rng.u32(..20) {
        0 => json!({ "action": "status" }),
        1 => json!({ "action": "cancel" }),
        2..5 => json!({ "action": "reconcile" }),
        5 => json!({ "action": "archive", "olderThanDays": 0 }),
        6 if !listed.is_empty() => {
            json!({ "action": "discard", "eventIds": some(rng), "why": "not needed" })
        }
        7..9 if !archived.is_empty() => json!({ "action": "restore", "key": rng.choice(archived) }),
        9 => json!({ "action": "replay", "all": true, "dryRun": true }),
        10..12 => {
            json!({ "action": "replay", "all": true, "ratePerSecond": 1, "force": force, "why": why })
        }
        12 => {
            json!({ "action": "replay", "all": true, "maxMessages": 5, "force": force, "why": why })
        }
        13..16 if !listed.is_empty() => {
            json!({ "action": "replay", "eventIds": some(rng), "force": force, "why": why })
        }
        16 => {
            json!({ "action": "replay", "filter": { "reason": "exhausted" }, "force": force, "why": why })
        }
        _ => json!({ "action": "replay", "all": true, "force": force, "why": why }),
    }
}
