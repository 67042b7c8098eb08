//! Scenarios in which the relay keeps a journal, from which an operator sends events again, and
//! erases them.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{Kind, Outage, Scenario, Sent};
use crate::faults::{PlannedCrash, Service};

/// Life of a stack that keeps a journal.
#[derive(Debug, Clone)]
pub(crate) struct JournalPlan {
    /// Interval of the runs that write its objects.
    pub(crate) drained_every: Duration,
    /// Average time between two requests of an operator about it.
    pub(crate) operator_every: Option<Duration>,
    /// Planned runs in the background, each started again until it has ended.
    pub(crate) runs: Vec<(Duration, Value)>,
}

/// Number of the first event that belongs to the journal's scenario alone.
const MORE: usize = 100_000;

/// Conversations of a scenario.
const CONVERSATIONS: usize = 4;

impl Scenario {
    /// The same with a journal: more events, most of them of a few conversations.
    pub(super) fn with_journal(self, rng: &mut fastrand::Rng) -> Self {
        let scenario = if rng.bool() {
            self.with_order(rng)
        } else {
            self
        };
        let length = scenario.length;
        let events = scenario.events.into_iter().map(|sent| Sent {
            conversation: sent.conversation.or_else(|| conversation(rng, sent.kind)),
            ..sent
        });
        let mut events: Vec<_> = events.collect();
        for number in MORE..MORE + rng.usize(5..20) {
            let kind = *rng
                .choice(&[
                    Kind::Webhook,
                    Kind::Webhook,
                    Kind::OpenMessaging,
                    Kind::EventBridge,
                ])
                .unwrap_or(&Kind::Webhook);
            let first = length.mul_f64(rng.f64() * if rng.bool() { 0.2 } else { 0.9 });
            let mut at = vec![first];
            if rng.u32(..4) == 0 {
                at.push(first + length.mul_f64(rng.f64() * 0.5));
            }
            events.push(Sent {
                number,
                kind,
                at,
                poison: rng.u32(..12) == 0,
                conversation: conversation(rng, kind),
            });
        }
        let mut outages = scenario.outages;
        if rng.u32(..4) == 0 {
            let began = length.mul_f64(rng.f64());
            outages.push(Outage {
                service: Service::Journal,
                during: began..began + (length / 4).mul_f64(rng.f64()),
            });
        }
        let is_long = length > Duration::from_hours(24);
        // While the breaker is open, events of a conversation wait that have no record yet.
        // In order, the receives of those behind would use up the far net.
        let has_outage = length < Duration::from_hours(6) && rng.bool() && scenario.order.is_none();
        let away = has_outage.then(|| {
            let began = length.mul_f64(rng.f64() * 0.5);
            (began..began + length.mul_f64(0.1 + rng.f64() * 0.4), 503)
        });
        Self {
            breaker_every: away.as_ref().map(|_| Duration::from_mins(1)),
            away,
            // A batch that Lambda throttles is hidden for minutes, and its events have no record.
            throttled_per_thousand: *rng.choice(&[20, 200]).unwrap_or(&20),
            events,
            outages,
            journal: Some(JournalPlan {
                drained_every: if is_long {
                    length / 200
                } else {
                    Duration::from_mins(5)
                },
                operator_every: Some(length / rng.u32(5..25)),
                runs: Vec::new(),
            }),
            ..scenario
        }
    }

    /// Two resends and an erasure, without faults but one planned crash: of conversation 0 an event
    /// is delivered, one is dead, one in the archive, and one waits without a record.
    pub(crate) fn with_journal_and_crash(crash: PlannedCrash) -> Self {
        let minutes = Duration::from_mins;
        let sent = |number: usize, conversation, at: u64, poison| Sent {
            number,
            kind: if number % 3 == 1 {
                Kind::OpenMessaging
            } else {
                Kind::Webhook
            },
            at: vec![minutes(at) + Duration::from_secs(number as u64)],
            poison,
            conversation: Some(conversation),
        };
        let mut events: Vec<_> = (0..8)
            .map(|number| sent(number, number % 2, 1, false))
            .collect();
        events.extend([sent(8, 0, 2, true), sent(9, 1, 2, true)]);
        events.extend([sent(10, 0, 20, true), sent(11, 1, 20, true)]);
        events.extend([sent(12, 0, 58, false), sent(13, 1, 58, false)]);
        // A late copy of an event that is erased by then.
        events[0].at.push(minutes(100));
        let began: Timestamp = "2026-01-15T12:00:00Z".parse().expect("a time");
        let hour = json!({ "since": began, "until": began + minutes(15) });
        let resend = |run: &str, filter: Value| json!({ "action": "resend", "runId": run, "filter": filter, "why": "lost" });
        Self {
            length: minutes(130),
            events,
            outages: vec![Outage {
                service: Service::Target,
                during: minutes(57)..minutes(62),
            }],
            recover_every: None,
            reconcile_every: minutes(30),
            archive_every: minutes(5 * 60),
            requests: vec![(
                minutes(10),
                json!({ "action": "archive", "olderThanDays": 0 }),
            )],
            journal: Some(JournalPlan {
                drained_every: minutes(10),
                operator_every: None,
                runs: vec![
                    (minutes(25), resend("first", hour.clone())),
                    (
                        minutes(40),
                        resend("second", json!({ "conversationId": "c-1" })),
                    ),
                    (
                        minutes(60),
                        json!({ "action": "erase", "runId": "erase", "conversationId": "c-0", "why": "asked for" }),
                    ),
                    (minutes(110), resend("third", hour)),
                ],
            }),
            ..Self::with_crash(crash)
        }
    }
}

/// A conversation for an event whose body can name one and whose label no other has.
fn conversation(rng: &mut fastrand::Rng, kind: Kind) -> Option<usize> {
    let can = matches!(
        kind,
        Kind::Webhook
            | Kind::OpenMessaging
            | Kind::SharedId
            | Kind::EventBridge
            | Kind::Keyed
            | Kind::StaticKey
    );
    (can && rng.u32(..5) > 0).then(|| rng.usize(..CONVERSATIONS))
}

/// Random request of an operator about the journal. `number` is that of the request.
pub(crate) fn journal_request(
    rng: &mut fastrand::Rng,
    number: usize,
    now: Timestamp,
    length: Duration,
    (taken, queued): (&[String], &[String]),
    earlier: &[Value],
) -> Value {
    let some = |rng: &mut fastrand::Rng, of: &[String]| {
        let ids: Vec<_> = (0..rng.usize(1..4))
            .filter_map(|_| rng.choice(of).cloned())
            .collect();
        json!(ids)
    };
    let conversation = |rng: &mut fastrand::Rng| json!(format!("c-{}", rng.usize(..CONVERSATIONS)));
    match rng.u32(..20) {
        0..2 => json!({ "action": "journal" }),
        2..4 => json!({ "action": "conversation", "id": conversation(rng) }),
        4 => {
            json!({ "action": "resend", "dryRun": true, "filter": { "conversationId": conversation(rng) } })
        }
        5..8 if !earlier.is_empty() => rng.choice(earlier).cloned().unwrap_or_default(),
        8 if !earlier.is_empty() => {
            let run = rng.choice(earlier).map(|request| request["runId"].clone());
            json!({ "action": "cancel", "runId": run })
        }
        9..11 => {
            let mut request = json!({ "action": "erase", "why": "asked for" });
            if rng.bool() && !queued.is_empty() {
                request["eventIds"] = some(rng, queued);
            } else {
                request["conversationId"] = conversation(rng);
            }
            if rng.bool() {
                request["runId"] = json!(format!("erase-{number}"));
            }
            request
        }
        _ => {
            let mut request =
                json!({ "action": "resend", "runId": format!("resend-{number}"), "why": "lost" });
            if rng.u32(..3) == 0 && !taken.is_empty() {
                request["eventIds"] = some(rng, taken);
            } else {
                let mut filter = json!({});
                let back = length.mul_f64(rng.f64() * 0.7);
                let since = now - back;
                match rng.u32(..4) {
                    0 => filter["conversationId"] = conversation(rng),
                    1 => filter = json!({ "since": since, "conversationId": conversation(rng) }),
                    2 => filter["since"] = json!(since),
                    _ => {
                        filter =
                            json!({ "since": since, "until": since + back.mul_f64(rng.f64()) });
                    }
                }
                match rng.u32(..6) {
                    0 => {
                        filter["source"] = json!(
                            *rng.choice(&["webhook", "open-messaging", "eventbridge"])
                                .unwrap_or(&"webhook")
                        );
                    }
                    1 => filter["webhookId"] = json!(format!("hook-{}", rng.usize(..3))),
                    _ => {}
                }
                request["filter"] = filter;
            }
            if rng.u32(..4) == 0 {
                request["ratePerSecond"] = json!(rng.u32(1..4));
            }
            if rng.u32(..5) == 0 {
                request["maxMessages"] = json!(rng.u32(1..6));
            }
            request
        }
    }
}
