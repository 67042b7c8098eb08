//! Reading of SQS messages by any writer: ingest, a rule of EventBridge, or a person in the
//! console.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use genesys_relay::deliver::{Ports, Processor};
use genesys_relay::domain::event::Event;
use genesys_relay::domain::failure::{Reason, ReasonKind};
use genesys_relay::domain::message::{Attribute, AttributeValue, Message};
use genesys_relay::domain::retry::Schedule;
use genesys_relay::domain::text::MAX_EXCERPT_BYTES;
use genesys_relay::ports::clock::Clock as _;
use genesys_relay::ports::queue::{ReceiptHandle, ReceivedMessage};
use genesys_relay::ports::target::Outcome;
use genesys_relay::testing::{FakePorts, FakeQueue, FakeTable, FakeTarget};
use jiff::{SignedDuration, Timestamp};

use crate::runtime::{Noon, deadline, run};

/// "Amazon SQS message quotas": a message has at most 10 attributes.
const MAX_ATTRIBUTES: usize = 10;

/// A message is delivered byte for byte, or is a dead letter byte for byte with a reason; sent
/// again it stays the same event; and a reason comes and goes without a trace.
///
/// The input is attributes, one `name=value` in a line, an empty line and the body. `name=0x…` is
/// an attribute of bytes.
pub(crate) fn message(input: &[u8]) {
    let message = read(&String::from_utf8_lossy(input));
    let sent_at = Noon.now();
    let later = sent_at + SignedDuration::from_hours(1);
    let event = message.to_event(sent_at);
    if let Ok(event) = &event {
        check_travel(event);
        assert_eq!(
            message.identity(sent_at),
            (event.id.clone(), event.received_at)
        );
    }
    let named = message.clone().with_identity(sent_at);
    assert!(
        named.attributes.len() <= MAX_ATTRIBUTES.max(message.attributes.len()),
        "SQS takes no more than ten"
    );
    assert_eq!((&named.body, &named.group), (&message.body, &message.group));
    assert!(
        message
            .attributes
            .iter()
            .all(|(name, value)| named.attributes.get(name) == Some(value))
    );
    if event.is_ok() && message.attributes.len() + 2 <= MAX_ATTRIBUTES {
        let (id, received_at) = message.identity(sent_at);
        let says = message.attributes.contains_key("received_at");
        let received_at = if says {
            received_at
        } else {
            to_the_millisecond(received_at)
        };
        assert_eq!(
            named.identity(later),
            (id, received_at),
            "sent again it is another event"
        );
    }
    check_reasons(&message);
    check_processing(&message);
}

fn read(text: &str) -> Message {
    let (lines, body) = match text.strip_prefix('\n') {
        Some(body) => ("", body),
        None => text.split_once("\n\n").unwrap_or(("", text)),
    };
    let attribute = |line: &str| {
        let (name, text) = line.split_once('=')?;
        let attribute = match text.strip_prefix("0x") {
            Some(bytes) => Attribute {
                data_type: "Binary".to_owned(),
                value: AttributeValue::Binary(bytes.as_bytes().to_vec()),
            },
            None => Attribute {
                data_type: "String".to_owned(),
                value: AttributeValue::Text(text.to_owned()),
            },
        };
        Some((name.to_owned(), attribute))
    };
    Message {
        body: body.to_owned(),
        attributes: lines.lines().filter_map(attribute).collect(),
        group: None,
        trace: None,
    }
}

/// An event goes through SQS and comes out as it was, to the millisecond.
fn check_travel(event: &Event) {
    let message = Message::from_event(event.clone());
    let again = message.to_event(Noon.now()).expect("readable");
    // Who sent it is written in the body, and is read from there only where that is JSON.
    assert_eq!(
        again,
        Event {
            received_at: to_the_millisecond(event.received_at),
            ..event.clone()
        }
    );
    assert_eq!(message.reason(Noon.now()), None);
}

fn to_the_millisecond(time: Timestamp) -> Timestamp {
    format!("{time:.3}").parse().expect("a time")
}

fn check_reasons(message: &Message) {
    let theirs = message.reason(Noon.now());
    if let Some(reason) = theirs.filter(|_| !message.attributes.contains_key("reason")) {
        assert!(
            reason.detail.len() <= MAX_EXCERPT_BYTES,
            "EventBridge says too much"
        );
    }
    let reason = |detail: &str| Reason {
        detail: detail.to_owned(),
        status_code: Some(404),
        attempt: Some(u32::MAX),
        ..Reason::new(ReasonKind::Permanent, "", Noon.now())
    };
    let with = |detail| message.clone().with_reason(&reason(detail));
    let dead = with("one");
    assert_eq!(
        (dead.reason(Noon.now()), &dead.body),
        (Some(reason("one")), &message.body)
    );
    assert_eq!(
        dead.clone().with_reason(&reason("two")),
        with("two"),
        "the last reason counts"
    );
    let back = dead.without_reason();
    assert_eq!(back, message.clone().without_reason());
    assert_eq!(back.reason(Noon.now()), None);
    assert!(
        back.attributes
            .iter()
            .all(|(name, value)| message.attributes.get(name) == Some(value))
    );
}

/// The processor delivers the body, or sends the message to the dead-letter queue.
fn check_processing(message: &Message) {
    let delivered = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&delivered);
    let target = FakeTarget::new(move |event: Event, _| {
        seen.lock().expect("not poisoned").push(event.body);
        std::future::ready(Outcome::Delivered { status: Some(200) })
    });
    let dead_letters = FakeQueue::default();
    let (events, table) = (FakeQueue::default(), FakeTable::default());
    let schedule =
        Schedule::new(Duration::from_secs(2), Duration::from_mins(15), 10).expect("a schedule");
    let ports = Ports {
        events,
        ordered: None,
        dead_letters: dead_letters.clone(),
        journal: None,
        table,
        target,
        clock: Noon,
    };
    let processor = Arc::new(Processor::<FakePorts<_, Noon>>::new(ports, schedule));
    let record = ReceivedMessage {
        message_id: "m1".to_owned(),
        receipt: ReceiptHandle("r1".to_owned()),
        receive_count: 1,
        is_ordered: false,
        sent_at: Noon.now(),
        message: message.clone(),
    };
    let kept = run(async { processor.process(vec![record], deadline()).await });
    assert_eq!(
        kept,
        Vec::<String>::new(),
        "it is neither delivered nor a dead letter"
    );
    let delivered = delivered.lock().expect("not poisoned");
    match (
        message.to_event(Noon.now()),
        &delivered[..],
        &dead_letters.messages()[..],
    ) {
        (Ok(event), [body], []) => assert_eq!(*body, event.body),
        (Err(_), [], [dead]) => {
            assert_eq!(dead.body, message.body, "byte for byte");
            assert_eq!(
                dead.reason(Noon.now()).expect("a reason").reason,
                ReasonKind::Malformed
            );
            let kept: BTreeMap<_, _> = message.clone().without_reason().attributes;
            assert!(
                kept.iter()
                    .all(|(name, value)| dead.attributes.get(name) == Some(value))
            );
        }
        odd => panic!("{odd:?}"),
    }
}
