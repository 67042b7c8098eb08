//! Entries of a delivery log, and their recovery.

use std::collections::BTreeSet;

use genesys_relay::domain::message::{MAX_MESSAGE_BYTES, Message};
use genesys_relay::ports::clock::Clock as _;
use genesys_relay::ports::delivery_log::{DeliveryLog, Entry, Part, Window};
use genesys_relay::recover::{FailedRun, Ports, Recover, Report, Request};
use genesys_relay::testing::{FakePorts, FakeQueue, FakeTable};
use jiff::SignedDuration;
use serde_json::json;

use crate::runtime::{Noon, deadline, run};

/// The hour before noon.
pub(crate) fn window() -> Window {
    Window {
        from: Noon.now() - SignedDuration::from_hours(1),
        to: Noon.now(),
    }
}

/// True where a header belongs to an event.
pub(crate) fn is_kept(name: &str) -> bool {
    matches!(name, "x-hub-signature-256" | "traceparent")
        || name.starts_with("x-genesys-")
        || name.starts_with("inin-")
}

/// An entry says what it is.
fn check(entry: &Entry) {
    match entry {
        Entry::Failed(failed) => {
            assert!(
                !failed.body.is_empty() && !failed.delivery.is_empty(),
                "{failed:?}"
            );
            assert!(
                failed.headers.keys().all(|name| is_kept(name)),
                "{failed:?}"
            );
        }
        Entry::Unreadable(unreadable) => {
            let texts = [&unreadable.name, &unreadable.whole, &unreadable.problem];
            assert!(
                texts.into_iter().all(|text| !text.is_empty()),
                "{unreadable:?}"
            );
        }
        Entry::Unavailable(why) | Entry::Skipped(why) => assert!(!why.is_empty()),
    }
}

/// Parts that are read at most.
const MAX_PARTS: usize = 20;

/// Reads a log part by part. `before` looks at each place, and `check` compares what it saw with the
/// part read there.
pub(crate) fn check_parts<L: DeliveryLog, S>(
    log: &L,
    before: impl Fn(&L::Place) -> S,
    check: impl Fn(S, &Part<L::Place>),
) {
    run(async {
        let (mut place, until) = (L::Place::default(), deadline());
        for _ in 0..MAX_PARTS {
            let seen = before(&place);
            let Ok(part) = log.read(window(), place, until).await else {
                break;
            };
            part.entries.iter().for_each(self::check);
            check(seen, &part);
            match part.next {
                Some(next) => place = next,
                None => break,
            }
        }
    });
}

/// Each fetched item is queued, known or reported; a queued one fits; and a second run finds all of
/// them known.
pub(crate) fn check_recovery<L: DeliveryLog>(log: impl Fn() -> L) {
    let (events, dead_letters, table) = (
        FakeQueue::default(),
        FakeQueue::default(),
        FakeTable::default(),
    );
    let ports = || Ports {
        log: log(),
        events: events.clone(),
        dead_letters: dead_letters.clone(),
        table: table.clone(),
        clock: Noon,
    };
    let recover = || Recover::<FakePorts<L, Noon>> {
        ports: ports(),
        overlap: SignedDuration::from_mins(15),
    };
    let request = json!({ "from": window().from, "to": window().to });
    let request = Request::parse(request, "an operator", Noon.now()).expect("understood");
    let report = || match run(async { recover().recover(&request, deadline()).await }) {
        Ok(report) => report,
        Err(FailedRun { report, .. }) => *report,
    };
    let Report {
        fetched,
        new,
        known,
        unreadable,
        skipped,
        unavailable,
        ..
    } = report();
    assert_eq!(
        new + known + unreadable + skipped + unavailable,
        fetched,
        "something is hidden"
    );
    let (sent, dead_letters) = (events.messages(), dead_letters.messages());
    assert_eq!(
        (sent.len() as u64, dead_letters.len() as u64),
        (new, unreadable)
    );
    assert!(
        sent.iter()
            .all(|message| message.size() <= MAX_MESSAGE_BYTES),
        "SQS refuses it"
    );
    assert!(
        dead_letters
            .iter()
            .all(|message| message.reason(Noon.now()).is_some()),
        "a dead letter without a reason"
    );
    let ids: BTreeSet<_> = sent
        .iter()
        .chain(&dead_letters)
        .filter_map(Message::event_id)
        .collect();
    assert_eq!(ids.len() as u64, new + unreadable, "one event twice");

    let again = report();
    assert_eq!(
        (again.new, again.unreadable),
        (0, 0),
        "what is known is taken for new"
    );
}
