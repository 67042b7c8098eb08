//! One id, and bodies and copies under it, in every order in which they can come.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::domain::event::{EventId, Identity};
use crate::domain::json::Json;

/// A message of Open Messaging as ingest sends it, or as the recovery does that made it again.
fn message(text: &str, is_copy: bool) -> Message {
    let body = format!(
        r#"{{"id":"m1","type":"Text","text":"{text}","direction":"Outbound","channel":{{"id":"c1","time":"2026-01-15T12:00:00Z"}}{}}}"#,
        if is_copy {
            r#","conversationId":"written again""#
        } else {
            ""
        }
    );
    let json = Json::parse(body.as_bytes()).expect("JSON");
    let Identity {
        id,
        source,
        webhook_id,
    } = Identity::of(json, FakeClock.now(), None, || panic!("nothing tells"));
    let (received_at, headers) = (FakeClock.now(), BTreeMap::new());
    Message::from_event(Event {
        id,
        source,
        received_at,
        content_type: None,
        headers,
        body: body.into(),
        webhook_id,
        is_copy,
    })
}

fn brings(message: &Message, message_id: &str) -> ReceivedMessage {
    ReceivedMessage {
        message: message.clone(),
        ..record(message_id, 1)
    }
}

/// The ids under which the target got these messages, one after the other, and the bodies.
async fn delivered(messages: &[Message]) -> Vec<(EventId, String)> {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let target = Arc::clone(&seen);
    let processor = processor(move |event: Event, _| {
        target
            .lock()
            .expect("not poisoned")
            .push((event.id, String::from_utf8_lossy(&event.body).into_owned()));
        deliver()
    });
    for (nth, message) in messages.iter().enumerate() {
        let kept = processor
            .process(vec![brings(message, &nth.to_string())], a_minute())
            .await;
        assert_eq!(kept, Vec::<String>::new());
    }
    let seen = seen.lock().expect("not poisoned").clone();
    let ids: BTreeSet<_> = seen.iter().map(|(id, _)| id).collect();
    assert_eq!(ids.len(), seen.len(), "an event came twice: {seen:?}");
    seen
}

/// Each order of some messages.
fn orders(messages: &[Message]) -> Vec<Vec<Message>> {
    if messages.is_empty() {
        return vec![Vec::new()];
    }
    (0..messages.len())
        .flat_map(|first| {
            let mut rest = messages.to_vec();
            let first = rest.remove(first);
            orders(&rest)
                .into_iter()
                .map(move |rest| [vec![first.clone()], rest].concat())
        })
        .collect()
}

#[tokio::test(start_paused = true)]
async fn a_webhook_and_its_recovered_copy_are_one_event_in_any_order() {
    let (webhook, copy) = (message("Hi", false), message("Hi", true));
    for order in orders(&[webhook.clone(), webhook, copy.clone(), copy]) {
        assert_eq!(delivered(&order).await.len(), 1, "{order:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn each_body_under_an_id_is_delivered_once_in_any_order() {
    let (one, other) = (message("Hi", false), message("Correction", false));
    assert_eq!(one.event_id(), other.event_id());
    for order in orders(&[one.clone(), one, other.clone(), other]) {
        let seen = delivered(&order).await;
        let bodies: BTreeSet<_> = seen
            .iter()
            .map(|(_, body)| body.contains("Correction"))
            .collect();
        assert_eq!((seen.len(), bodies.len()), (2, 2), "{seen:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_recovered_copy_stands_for_the_first_body_and_swallows_no_other() {
    let (one, other, copy) = (
        message("Hi", false),
        message("Correction", false),
        message("Hi", true),
    );
    for order in orders(&[one, other, copy]) {
        let seen = delivered(&order).await;
        // The copy, or the body that it stands for; and the one that is another.
        assert_eq!(seen.len(), 2, "{order:?} became {seen:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn duplicate_that_was_not_recorded_is_not_acknowledged() {
    let processor = fine();
    processor
        .process(vec![brings(&message("Hi", true), "copy")], a_minute())
        .await;
    // The claim is refused, and then the digest cannot be written.
    processor.ports.table.fail_after(1, 1);
    let kept = processor
        .process(vec![brings(&message("Hi", false), "webhook")], a_minute())
        .await;
    assert_eq!(kept, ["webhook"]);
    assert!(
        processor
            .process(vec![brings(&message("Hi", false), "webhook")], a_minute())
            .await
            .is_empty()
    );
    assert_eq!(processor.ports.target.deliveries(), 1);
}

/// Moved by SQS as it is, it would be there under the id of another event, or under one that a move
/// changes.
#[tokio::test(start_paused = true)]
async fn message_without_identity_goes_to_dead_letters_under_its_id() {
    let bare = Message {
        body: r#"{"name":"bare"}"#.to_owned(),
        attributes: BTreeMap::new(),
        group: None,
        trace: None,
    };
    for message in [message("Correction", false), bare] {
        let processor = processor(|event: Event, _| {
            if String::from_utf8_lossy(&event.body).contains("Hi") {
                deliver()
            } else {
                fail(FailureCause::Status(503))
            }
        });
        processor
            .process(vec![brings(&self::message("Hi", false), "one")], a_minute())
            .await;
        let last = || ReceivedMessage {
            receive_count: 4,
            ..brings(&message, "other")
        };
        // In doubt SQS moves it.
        processor.ports.dead_letters.fail_times(1);
        assert_eq!(receive(&processor, last()).await, ["other"]);
        let dead = processor
            .ports
            .table
            .records()
            .into_iter()
            .find(|record| record.state.name() == StateName::Dead);
        let dead = dead.expect("recorded before it is sent");
        let attempts = processor.ports.target.deliveries();
        // Brought again, it is only sent again.
        assert!(receive(&processor, last()).await.is_empty());
        assert!(receive(&processor, last()).await.is_empty());
        assert_eq!(processor.ports.target.deliveries(), attempts);
        for letter in processor.ports.dead_letters.messages() {
            assert_eq!(letter.event_id(), Some(dead.event_id.as_str()));
            let reason = letter.reason(FakeClock.now()).expect("a reason");
            assert_eq!(
                (reason.reason, reason.status_code),
                (ReasonKind::Exhausted, Some(503))
            );
        }
        assert_eq!(processor.ports.dead_letters.messages().len(), 2);
    }
}

#[tokio::test(start_paused = true)]
async fn message_without_identity_and_record_is_sent_too() {
    let processor = processor(|_, _| fail(FailureCause::Status(503)));
    let bare = Message {
        body: r#"{"name":"bare"}"#.to_owned(),
        attributes: BTreeMap::new(),
        group: None,
        trace: None,
    };
    // The erasures read, looked up and claimed, and nothing after that.
    processor.ports.table.fail_after(3, usize::MAX);
    let last = ReceivedMessage {
        receive_count: 4,
        ..brings(&bare, "bare")
    };
    assert!(receive(&processor, last).await.is_empty());
    let record = processor.ports.table.only_record();
    assert_eq!(
        processor.ports.dead_letters.messages()[0].event_id(),
        Some(record.event_id.as_str())
    );
    assert!(
        record
            .state
            .death(FakeClock.now() + Duration::from_mins(2))
            .is_some(),
        "once its lease is over"
    );
}

#[tokio::test(start_paused = true)]
async fn another_body_dies_under_its_own_id() {
    let processor = processor(|event: Event, _| {
        if String::from_utf8_lossy(&event.body).contains("Correction") {
            fail(FailureCause::Status(404))
        } else {
            deliver()
        }
    });
    let (one, other) = (message("Hi", false), message("Correction", false));
    processor
        .process(vec![brings(&one, "one")], a_minute())
        .await;
    assert!(
        processor
            .process(vec![brings(&other, "other")], a_minute())
            .await
            .is_empty()
    );
    let letter = processor.ports.dead_letters.messages().remove(0);
    let records = processor.ports.table.records();
    let states: BTreeMap<_, _> = records
        .iter()
        .map(|record| (record.event_id.as_str(), record.state.name()))
        .collect();
    assert_eq!(states.len(), 2, "{states:?}");
    assert_eq!(states[one.event_id().expect("an id")], StateName::Delivered);
    assert_eq!(states[letter.event_id().expect("an id")], StateName::Dead);
    // Moved once more, it is not claimed again.
    assert!(
        processor
            .process(vec![brings(&other, "other")], a_minute())
            .await
            .is_empty()
    );
    let letters = processor.ports.dead_letters.messages();
    assert!(
        letters.len() == 2
            && letters
                .iter()
                .all(|again| again.event_id() == letter.event_id()),
        "{letters:?}"
    );
}
