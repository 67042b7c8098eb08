//! Metrics of the relay against their table; each event is counted once.
//!
//! The recorder is one for the whole process, so that these tests run one after the other.

mod line;
mod relay;

use std::collections::BTreeMap;
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::Duration;

use genesys_relay::adapters::aws::dynamodb::DynamoDb;
use genesys_relay::adapters::aws::sqs::Sqs;
use genesys_relay::adapters::http_target::{HttpTarget, install_tls_provider};
use genesys_relay::domain::circuit::{Circuit, State};
use genesys_relay::domain::message::Message;
use genesys_relay::ports::clock::Clock as _;
use genesys_relay::ports::events_table::EventsTable as _;
use genesys_relay::ports::queue::Sender as _;
use genesys_relay::ports::secrets::SecretCache;
use genesys_relay::ports::target::{Delivery, Outcome, Target as _};
use genesys_relay::runtime::metrics::{self, Pending};
use genesys_relay::testing::{FakeClock, FakeSecretStore, refused};
use jiff::{SignedDuration, Timestamp};
use local::clients::Keys;
use rcgen::{CertificateParams, KeyPair, date_time_ymd};
use serde_json::json;
use tokio::time::Instant;

use self::line::Line;
use self::relay::{Relay, message};

const NAMESPACE: &str = "GenesysRelay/test";

/// All that `work` records, on virtual time.
fn recorded<F: Future>(work: impl FnOnce() -> F) -> Vec<Line> {
    static PENDING: LazyLock<Mutex<Pending>> = LazyLock::new(|| {
        Mutex::new(Pending::start(NAMESPACE.to_owned()).expect("the only recorder"))
    });
    let mut pending = PENDING.lock().unwrap_or_else(PoisonError::into_inner);
    drop(pending.take().expect("what a test before this one left"));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build();
    runtime.expect("a runtime").block_on(async {
        FakeClock::start_over();
        work().await;
    });
    let lines = String::from_utf8(pending.take().expect("written")).expect("UTF-8");
    lines.lines().map(Line::read).collect()
}

/// Count of a metric, by the value of its dimension.
fn counts(lines: &[Line], name: &str) -> BTreeMap<String, u64> {
    let mut counts = BTreeMap::new();
    for (value, numbers) in line::of(lines, name) {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "counted"
        )]
        let count = numbers.iter().sum::<f64>() as u64;
        *counts.entry(value.unwrap_or_default()).or_default() += count;
    }
    counts
}

fn count(lines: &[Line], name: &str) -> u64 {
    counts(lines, name).values().sum()
}

/// Every value of a metric without a dimension.
fn values(lines: &[Line], name: &str) -> Vec<f64> {
    line::of(lines, name)
        .into_iter()
        .flat_map(|(_, numbers)| numbers)
        .collect()
}

#[test]
fn the_metrics_of_the_table_are_written_and_no_others() {
    let lines = recorded(|| async {
        expired_certificate().await;
        relay::everything().await;
        failed_calls().await;
    });
    assert_eq!(count(&lines, "CredentialsFailed"), 1);
    assert_eq!(values(&lines, "CertificateDaysLeft"), [-15.0]);
    let table = metrics::all().into_iter().map(|metric| {
        let dimension = metric.dimension.map(|(name, values)| {
            let values = values.into_iter().map(str::to_owned);
            (name.to_owned(), values.collect())
        });
        (metric.name.to_owned(), (metric.unit.to_owned(), dimension))
    });
    assert_eq!(line::written(&lines), table.collect());
}

#[test]
fn no_metric_counts_a_check() {
    let lines = recorded(relay::checks);
    let written = line::written(&lines);
    // Of runs over the dead letters, and not of their events.
    let names: Vec<&str> = written.keys().map(String::as_str).collect();
    assert_eq!(names, ["ArchiveFailed", "OldestDeadLetterAge"]);
}

/// Calls of AWS without an answer.
async fn failed_calls() {
    let config = local::clients::config("http://127.0.0.1:9", &Keys::unchecked()).await;
    let message = message("nowhere");
    assert!(
        Sqs::new(&config)
            .queue("http://127.0.0.1:9/queue".to_owned())
            .send(&message)
            .await
            .is_err()
    );
    assert!(
        DynamoDb::new(&config, "no-table".to_owned())
            .circuit()
            .await
            .is_err()
    );
}

/// Two deliveries with a client certificate that expired two weeks ago.
async fn expired_certificate() {
    install_tls_provider();
    let key = KeyPair::generate().expect("a key");
    let mut params = CertificateParams::default();
    params.not_after = date_time_ymd(2026, 1, 1);
    let certificate = params.self_signed(&key).expect("signed").pem();
    let secret = json!({ "targetClientCertificate": { "certificate": certificate, "privateKey": key.serialize_pem() } });
    let secrets = SecretCache::new(
        FakeSecretStore::holding(&secret),
        Duration::from_mins(5),
        FakeClock,
    );
    let url = "https://127.0.0.1:9/".parse().expect("a URL");
    let target =
        HttpTarget::new(url, Duration::from_secs(10), secrets, FakeClock).expect("a client");
    let event = message("fine").to_event(FakeClock.now()).expect("an event");
    for attempt in 1..3 {
        let outcome = target
            .deliver(Delivery {
                event: &event,
                attempt,
                deadline: Instant::now() + Duration::from_secs(10),
                order: None,
                resend: None,
                pace: None,
            })
            .await;
        assert!(matches!(outcome, Outcome::Failed(_)));
    }
}

#[test]
fn a_call_that_failed_is_counted_once() {
    let lines = recorded(failed_calls);
    assert_eq!(
        (count(&lines, "QueueErrors"), count(&lines, "TableErrors")),
        (1, 1)
    );
    let config = async || local::clients::config("http://127.0.0.1:9", &Keys::unchecked()).await;
    let many: Vec<Message> = (0..25).map(|number| message(&number.to_string())).collect();
    let lines = recorded(async || {
        let queue = Sqs::new(&config().await).queue("http://127.0.0.1:9/queue".to_owned());
        assert!(queue.send_all(&many).await.iter().all(Result::is_err));
    });
    assert_eq!(
        count(&lines, "QueueErrors"),
        3,
        "25 messages are three calls"
    );
}

#[test]
fn an_event_is_counted_on_each_stage_of_its_way() {
    let lines = recorded(async || {
        let relay = Relay::new();
        relay
            .receives(&json!({ "name": "fine" }))
            .await
            .expect("accepted");
        tokio::time::advance(Duration::from_secs(3)).await;
        relay.work().await;
    });
    for (name, expected) in [
        ("Accepted", 1),
        ("Delivered", 1),
        ("Retried", 0),
        ("Dead", 0),
        ("Duplicates", 0),
    ] {
        assert_eq!(count(&lines, name), expected, "{name}");
    }
    assert_eq!(values(&lines, "AgeAtDelivery"), [3.1]);
    assert_eq!(values(&lines, "EnqueueTime"), [0.0]);
    assert_eq!(values(&lines, "TargetTime"), [100.0]);
    assert_eq!(
        counts(&lines, "TargetAnswers"),
        BTreeMap::from([("2xx".to_owned(), 1)])
    );
}

#[test]
fn event_that_leaves_its_line_is_counted_with_the_wait() {
    let lines = recorded(async || relay::conversation(&Relay::new()).await);
    assert_eq!(count(&lines, "Reordered"), 1);
    assert_eq!(values(&lines, "ConversationWait"), [0.0, 120.1]);
}

#[test]
fn an_event_that_dies_is_counted_once() {
    let lines = recorded(async || {
        let relay = Relay::new();
        for name in ["404", "503"] {
            relay
                .receives(&json!({ "name": name }))
                .await
                .expect("accepted");
        }
        // What is refused for good is dead also while the dead-letter queue does not take it.
        relay.dead_letters.fail_times(2);
        relay.work().await;
        relay.sends_body("<xml/>").await.expect_err("refused");
        relay.reconcile().await;
        relay.reconcile().await;
    });
    let expected = [("exhausted", 1), ("malformed", 1), ("permanent", 1)];
    assert_eq!(
        counts(&lines, "Dead"),
        expected
            .map(|(reason, count)| (reason.to_owned(), count))
            .into()
    );
    // Each of four receives is an attempt, and after three of them comes another.
    assert_eq!(
        count(&lines, "Retried"),
        4,
        "three of the one that is away, and one whose dead letter was not taken"
    );
    assert_eq!(
        counts(&lines, "TargetAnswers"),
        BTreeMap::from([("4xx".to_owned(), 1), ("5xx".to_owned(), 4)])
    );
}

#[test]
fn uncounted_dead_letter_is_counted_when_it_is_found() {
    let lines = recorded(async || {
        let relay = Relay::new();
        relay
            .dead_letters
            .send(&message("unknown"))
            .await
            .expect("sent");
        relay
            .dead_letters
            .send(&refused(r#"{"name":"counted when it was sent"}"#))
            .await
            .expect("sent");
        tokio::time::advance(Duration::from_secs(1)).await;
        relay.reconcile().await;
        relay.reconcile().await;
    });
    assert_eq!(
        counts(&lines, "Dead"),
        BTreeMap::from([("unknown".to_owned(), 1)])
    );
}

#[test]
fn each_webhook_is_counted_for_what_it_was_answered() {
    let lines = recorded(async || relay::webhooks(&Relay::new()).await);
    let once = [
        "empty",
        "not-configured",
        "not-json",
        "too-large",
        "unauthorized",
        "unavailable",
    ]
    .map(|reason| (reason.to_owned(), 1));
    assert_eq!(
        (count(&lines, "Accepted"), counts(&lines, "Rejected")),
        (1, once.into())
    );
}

#[test]
fn fetched_items_are_counted_by_kind() {
    let lines = recorded(async || relay::recoveries(&Relay::new()).await);
    for (name, expected) in [("Fetched", 3), ("New", 1), ("Known", 1), ("Unreadable", 1)] {
        assert_eq!(
            count(&lines, &format!("Recovery{name}")),
            expected,
            "{name}"
        );
    }
    assert_eq!(
        counts(&lines, "Dead"),
        BTreeMap::from([("unreadable".to_owned(), 1)])
    );
    assert_eq!(values(&lines, "RecoveryFailed"), [0.0, 1.0]);
    assert_eq!(values(&lines, "RecoveryBehindTime"), [0.0]);
}

#[test]
fn every_run_of_the_archive_says_whether_it_failed() {
    let archive = |by: &str| json!({ "action": "archive", "olderThanDays": 10, "by": by });
    let lines = recorded(async || {
        let relay = Relay::new();
        relay.asks(archive("schedule")).await;
        relay.table.fail_after(0, 1);
        relay.asks(archive("schedule")).await;
        relay.is_busy().await;
        relay.asks(archive("an operator")).await;
        relay.asks(archive("schedule")).await;
    });
    assert_eq!(
        values(&lines, "ArchiveFailed"),
        [0.0, 1.0, 1.0],
        "an operator has been told that another run is at work"
    );
}

#[test]
fn another_body_under_a_known_id_is_counted_once() {
    let lines = recorded(async || {
        let relay = Relay::new();
        for text in ["first", "recovered", "found dead"] {
            match text {
                "first" => {
                    relay
                        .receives(&relay::open_messaging(text))
                        .await
                        .expect("accepted");
                }
                "recovered" => {
                    relay::recovers(&relay, text).await;
                    relay::recovers(&relay, text).await;
                }
                _ => {
                    let body = relay::open_messaging(text).to_string();
                    relay
                        .dead_letters
                        .send(&Message {
                            body,
                            ..message("bare")
                        })
                        .await
                        .expect("sent");
                    tokio::time::advance(Duration::from_secs(1)).await;
                    relay.reconcile().await;
                    relay.reconcile().await;
                }
            }
            relay.work().await;
        }
        relay
            .asks(json!({ "action": "replay", "filter": { "reason": "unknown" } }))
            .await;
        relay.work().await;
    });
    assert_eq!(
        (count(&lines, "Delivered"), count(&lines, "ReusedIds")),
        (3, 2)
    );
}

#[test]
fn the_breaker_counts_as_open_while_events_are_held_back_or_given_up() {
    let now: Timestamp = "2026-01-15T12:00:00Z".parse().expect("a time");
    for (state, open) in [
        (State::Closed, 0.0),
        (State::Open, 1.0),
        (State::Closing { concurrency: 2 }, 0.0),
        (State::Exhausting, 1.0),
        (State::Off, 0.0),
    ] {
        let circuit = Circuit {
            state,
            ..Circuit::closed(now)
        };
        assert_eq!(
            values(
                &recorded(async || metrics::breaker(&circuit, now)),
                "BreakerOpen"
            ),
            [open],
            "{state:?}"
        );
    }
}

#[test]
fn processor_that_attempts_nothing_of_what_waits_is_silent() {
    let silent = |minutes: usize, waits: bool| {
        let lines = recorded(async || {
            let relay = Relay::new();
            if waits {
                let event = json!({ "name": "waits" });
                relay.receives(&event).await.expect("accepted");
            }
            relay::minutes_without_attempts(&relay, minutes).await;
        });
        values(&lines, "ProcessorSilent").contains(&1.0)
    };
    assert!(silent(8, true));
    assert!(!silent(1, true) && !silent(8, false));
}

#[test]
fn data_of_a_sender_is_in_no_metric() {
    let forged = "forged\n{\"_aws\":{}}";
    let lines = recorded(async || {
        let relay = Relay::new();
        relay
            .receives(&json!({ "name": forged, "webhookId": forged }))
            .await
            .expect("accepted");
        relay.sends_body(forged).await.expect_err("refused");
        relay.work().await;
        relay.reconcile().await;
    });
    assert!(!lines.is_empty());
    assert!(
        lines.iter().all(|line| !line.whole.contains("forged")),
        "{lines:?}"
    );
}

#[test]
fn a_breaker_that_does_not_look_any_more_shows() {
    let since: Timestamp = "2026-01-15T12:00:00Z".parse().expect("a time");
    let later = since + SignedDuration::from_mins(7);
    let open = Circuit {
        state: State::Open,
        ..Circuit::closed(since)
    };
    let forced = Circuit {
        forced: true,
        ..open.clone()
    };
    for (circuit, unprobed) in [
        (&open, 420.0),
        (&forced, 0.0),
        (&Circuit::closed(since), 0.0),
    ] {
        let lines = recorded(async || metrics::breaker_unprobed(circuit, later));
        assert_eq!(
            values(&lines, "BreakerUnprobedTime"),
            [unprobed],
            "{circuit:?}"
        );
    }
}
