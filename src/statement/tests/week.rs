//! A simulated week of a Genesys Cloud that loses, doubles, mislabels and delays.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use super::*;

const MESSAGES: usize = 60;

/// What the statement of one day must say.
#[derive(Debug, Default, PartialEq, Eq)]
struct Expected {
    sent: u64,
    unaccounted: Vec<String>,
    unaccounted_by_status: BTreeMap<String, u64>,
    on_another_day: u64,
    at_another_time: u64,
    inbound: u64,
    of_other_integrations: u64,
}

impl Expected {
    fn of(statement: &Value) -> Self {
        let genesys = &statement["genesys"];
        let number = |name: &str| genesys[name].as_u64().expect("a number");
        let mut unaccounted: Vec<_> = unaccounted_of(statement)
            .into_iter()
            .map(str::to_owned)
            .collect();
        unaccounted.sort();
        Self {
            sent: statement["sent"].as_u64().expect("a number"),
            unaccounted,
            unaccounted_by_status: serde_json::from_value(genesys["unaccountedByStatus"].clone())
                .expect("counts"),
            on_another_day: number("receivedOnAnotherDay"),
            at_another_time: number("sentAtAnotherTime"),
            inbound: number("inbound"),
            of_other_integrations: number("ofOtherIntegrations"),
        }
    }
}

/// One day of messages: what Genesys Cloud has, what the relay received, and what is to be said.
async fn live(relay: &Relay, cloud: &Cloud, day: Timestamp, rng: &mut fastrand::Rng) -> Expected {
    let mut expected = Expected::default();
    for number in 0..MESSAGES {
        let second = i64::try_from(number).expect("small") * 1400 + rng.i64(0..1000);
        let sent_at =
            day + SignedDuration::from_secs(second) + SignedDuration::from_millis(rng.i64(0..1000));
        let id = format!("m-{}-{number}", day.as_second());
        let conversation = format!("c-{}-{}", day.as_second(), number / 3);
        let mut message = Message::sent(&conversation, &id, sent_at);
        let mut received_at = sent_at + SignedDuration::from_millis(rng.i64(50..3000));
        let mut is_received = true;
        match rng.u8(0..10) {
            // Dropped; a failure may go by any status.
            0 => {
                is_received = false;
                message.status = *rng
                    .choice(&["failed", "sent", "delivery-success"])
                    .expect("some");
            }
            // Doubled, in the list and at the webhook.
            1 => message.is_listed_twice = true,
            // Delivered at another time than Genesys Cloud says.
            2 => {
                let off = rng.i64(1..60_000) * if rng.bool() { 1 } else { -1 };
                message.webhook_at = sent_at + SignedDuration::from_millis(off);
                expected.at_another_time += 1;
            }
            // Delayed over midnight.
            3 => {
                received_at = day + SignedDuration::from_secs(86_400 + rng.i64(0..60));
                expected.on_another_day += 1;
            }
            // A clock that is ahead: received before midnight, sent after it.
            4 => {
                received_at = day - SignedDuration::from_millis(rng.i64(1..60_000));
                expected.on_another_day += 1;
            }
            // Of a customer, or of another integration: no webhook of ours.
            5 => (message.direction, is_received) = ("Inbound", false),
            6 => (message.integration, is_received) = ("i2", false),
            _ => {}
        }
        if message.direction == "Inbound" {
            expected.inbound += 1;
        } else if message.integration == "i2" {
            expected.of_other_integrations += 1;
        } else {
            expected.sent += 1;
            if !is_received {
                expected.unaccounted.push(id);
                *expected
                    .unaccounted_by_status
                    .entry(message.status.to_owned())
                    .or_default() += 1;
            }
        }
        if is_received {
            receive(&relay.ports.table, &message.webhook(), received_at).await;
            if message.is_listed_twice {
                receive(&relay.ports.table, &message.webhook(), received_at).await;
            }
        }
        cloud.add(message);
    }
    expected.unaccounted.sort();
    expected
}

fn verify(folder: &Path, arguments: &[&str]) -> Output {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/verify_statements.py");
    let python = Command::new("python3")
        .arg(script)
        .arg(folder)
        .args(arguments)
        .output();
    python.expect("python3 runs")
}

async fn download(relay: &Relay) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("statements-{}", Uuid::new_v4()));
    std::fs::create_dir_all(&folder).expect("a folder");
    for key in relay.ports.archive.keys() {
        let object = relay.ports.archive.get(&key).await.expect("an object");
        std::fs::write(folder.join(key.trim_start_matches("statements/")), object)
            .expect("written");
    }
    folder
}

#[tokio::test(start_paused = true)]
async fn each_day_of_a_bad_week_is_stated_exactly() {
    FakeClock::start_over();
    let cloud = Cloud::default();
    let relay = relay(&cloud);
    let mut rng = fastrand::Rng::with_seed(22);
    // The schedule's first run.
    slice(&relay, json!({})).await;
    let (mut expected, mut stated, mut heads) = (BTreeMap::new(), BTreeMap::new(), Vec::new());
    let (mut day, end) = (at("2026-01-16T00:00:00Z"), at("2026-01-23T00:00:00Z"));
    while day < end {
        expected.insert(
            day_of(day).to_string(),
            live(&relay, &cloud, day, &mut rng).await,
        );
        day += SignedDuration::from_hours(24);
        until(day + SignedDuration::from_secs(61)).await;
        while FakeClock.now() < day + SignedDuration::from_hours(4) {
            if let Answer::Written {
                day,
                head,
                balances,
                ..
            } = slice(&relay, json!({})).await
            {
                assert!(balances, "{day}");
                stated.insert(
                    day.to_string(),
                    Expected::of(&read(&relay, &head.key).await),
                );
                heads.push(head);
            }
            tokio::time::sleep(Duration::from_mins(5)).await;
        }
    }
    assert_eq!(stated, expected);
    let lost: usize = expected.values().map(|day| day.unaccounted.len()).sum();
    assert!(lost > 20, "{lost} were lost");

    let folder = download(&relay).await;
    let newest = heads.last().expect("a head");
    let fine = verify(&folder, &["--head", &newest.sha256]);
    assert!(fine.status.success(), "{fine:?}");
    let said = String::from_utf8_lossy(&fine.stdout).into_owned();
    assert!(
        said.contains("7 statements from 2026-01-16 to 2026-01-22"),
        "{said}"
    );
    a_changed_byte_is_found(&folder, newest);
    std::fs::remove_dir_all(&folder).expect("removed");
}

/// In each statement, whatever byte it is. The newest is only known by its hash.
fn a_changed_byte_is_found(folder: &Path, newest: &Head) {
    for day in 16..=22 {
        let path = folder.join(format!("2026-01-{day}.json"));
        let object = std::fs::read(&path).expect("read");
        for place in [object.len() / 2, object.len() - 1] {
            let mut changed = object.clone();
            changed[place] ^= 1;
            std::fs::write(&path, &changed).expect("written");
            let found = verify(folder, &["--head", &newest.sha256]);
            assert_eq!(
                found.status.code(),
                Some(1),
                "byte {place} of {day}: {found:?}"
            );
        }
        std::fs::remove_file(&path).expect("removed");
        let found = verify(folder, &["--head", &newest.sha256]);
        assert_eq!(found.status.code(), Some(1), "without {day}: {found:?}");
        std::fs::write(&path, &object).expect("written");
    }
    assert!(verify(folder, &["--head", &newest.sha256]).status.success());
}
