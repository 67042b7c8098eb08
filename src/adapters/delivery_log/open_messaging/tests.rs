//! The log over an API that answers by path.

use std::collections::HashMap;
use std::sync::Mutex;

use serde_json::Value;

use super::*;
use crate::domain::event::Identity;

/// An API that answers by path, and remembers the bodies of its queries.
#[derive(Default)]
struct Api {
    answers: HashMap<String, Value>,
    /// Answers that are given byte for byte.
    exact: HashMap<String, String>,
    queries: Mutex<Vec<Value>>,
}

impl PlatformApi for Api {
    async fn call(&self, call: &Call, _deadline: Instant) -> Result<Vec<u8>, GenesysError> {
        let mut key = call.path.clone();
        if let Some(body) = &call.body {
            let body: Value = serde_json::from_str(body).expect("JSON");
            key = format!("{key} {}", body["paging"]["pageNumber"]);
            self.queries.lock().expect("not poisoned").push(body);
        }
        if key.contains("gone") {
            return Err(GenesysError::Unusable {
                what: key,
                problem: "it is too large".to_owned(),
            });
        }
        if key.contains("withheld") {
            let last = crate::adapters::genesys::Trouble::Http(
                crate::adapters::genesys::HttpError::TimedOut,
            );
            return Err(GenesysError::Unavailable {
                what: key,
                tries: 5,
                last,
            });
        }
        if let Some(answer) = self.exact.get(&key) {
            return Ok(answer.clone().into_bytes());
        }
        let answer = self
            .answers
            .get(&key)
            .unwrap_or_else(|| panic!("unexpected request: {key}"));
        Ok(answer.to_string().into_bytes())
    }
}

const QUERY: &str = "/api/v2/analytics/conversations/details/query";
const NOON: &str = "2026-01-15T12:00:00.000Z";

fn time(text: &str) -> Timestamp {
    text.parse().expect("a time")
}

fn log(answers: impl IntoIterator<Item = (String, Value)>) -> OpenMessaging<Api> {
    OpenMessaging {
        api: Api {
            answers: answers.into_iter().collect(),
            ..Api::default()
        },
        integration_ids: ["i1".to_owned()].into(),
        statuses: ["failed".to_owned()].into(),
        look_back: SignedDuration::from_hours(24),
    }
}

async fn read_all(log: &OpenMessaging<Api>) -> Result<Vec<Entry>, DeliveryLogError> {
    let window = Window {
        from: time(NOON),
        to: time("2026-01-15T13:00:00Z"),
    };
    let (mut place, mut entries) = (Place::default(), Vec::new());
    loop {
        let part = log.read(window, place, Instant::now()).await?;
        entries.extend(part.entries);
        match part.next {
            Some(next) => place = next,
            None => return Ok(entries),
        }
    }
}

fn page(number: u64, ids: &[&str], total: u64) -> (String, Value) {
    let conversations: Vec<_> = ids
        .iter()
        .map(|id| json!({ "conversationId": id }))
        .collect();
    (
        format!("{QUERY} {number}"),
        json!({ "conversations": conversations, "totalHits": total }),
    )
}

fn conversation(id: &str, messages: &[Value]) -> (String, Value) {
    let participants =
        json!([{ "purpose": "customer" }, { "purpose": "agent", "messages": messages }]);
    (
        format!("/api/v2/conversations/messages/{id}"),
        json!({ "id": id, "participants": participants }),
    )
}

fn listed(id: &str, status: &str, time: &str) -> Value {
    json!({ "messageId": id, "messageStatus": status, "messageTime": time })
}

fn normalized(id: &str, integration: &str) -> Value {
    json!({
        "id": id, "type": "Text", "text": "Grüße 😀", "direction": "Outbound", "originatingEntity": "Human",
        "channel": { "id": integration, "platform": "Open", "type": "Private", "time": NOON, "to": { "id": "customer" } },
    })
}

fn details(id: &str, normalized: &Value) -> (String, Value) {
    let path = format!("/api/v2/conversations/messages/{id}/details?useNormalizedMessage=true");
    let details = json!({ "id": id, "direction": "outbound", "status": "failed", "conversationId": "c1", "normalizedMessage": normalized });
    (path, details)
}

#[tokio::test]
async fn a_payload_is_made_again_with_the_id_of_the_webhook() {
    let answers = [
        page(1, &["c1"], 1),
        conversation(
            "c1",
            &[listed("m1", "failed", NOON), listed("m2", "sent", NOON)],
        ),
        details("m1", &normalized("m1", "i1")),
    ];
    let entries = read_all(&log(answers)).await.expect("read");
    let [Entry::Failed(failed)] = &entries[..] else {
        panic!("{entries:?}")
    };
    let mut webhook = normalized("m1", "i1");
    webhook["conversationId"] = json!("c1");
    assert_eq!(
        serde_json::from_slice::<Value>(&failed.body).expect("JSON"),
        webhook
    );
    let id = |body: &[u8]| {
        Identity::of(Json::parse(body).expect("JSON"), time(NOON), None, || {
            panic!("nothing tells")
        })
        .id
    };
    assert_eq!(id(&failed.body), id(webhook.to_string().as_bytes()));
    assert_eq!(
        (failed.at, failed.note.as_str()),
        (Some(time(NOON)), "message status failed")
    );
    assert_eq!(
        (failed.delivery.as_str(), failed.entry.as_str()),
        ("m1", "message m1")
    );
}

#[tokio::test]
async fn a_payload_has_its_own_conversation_and_time_where_it_names_them() {
    let mut webhook = normalized("m1", "i1");
    webhook["conversationId"] = json!("its-own");
    webhook["channel"]["time"] = json!("2026-01-15T12:00:01Z");
    let answers = [
        page(1, &["c1"], 1),
        conversation("c1", &[listed("m1", "failed", NOON)]),
        details("m1", &webhook),
    ];
    let entries = read_all(&log(answers)).await.expect("read");
    let [Entry::Failed(failed)] = &entries[..] else {
        panic!("{entries:?}")
    };
    assert_eq!(
        serde_json::from_slice::<Value>(&failed.body).expect("JSON"),
        webhook
    );
    assert_eq!(failed.at, Some(time("2026-01-15T12:00:01Z")));
}

#[tokio::test]
async fn every_page_is_asked_for_and_conversations_that_began_before() {
    let ids: Vec<String> = (0..101).map(|number| format!("c{number}")).collect();
    let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
    let conversations = ids.iter().map(|id| conversation(id, &[]));
    let log = log([page(1, &ids[..100], 101), page(2, &ids[100..], 101)]
        .into_iter()
        .chain(conversations));
    assert_eq!(read_all(&log).await.expect("read"), []);
    let queries = log.api.queries.lock().expect("not poisoned").clone();
    assert_eq!(queries.len(), 2);
    let matches = |dimension: &str, value: &str| json!({ "type": "dimension", "dimension": dimension, "operator": "matches", "value": value });
    // Ordered by what does not change, so that what begins meanwhile comes last and shifts no page.
    let query = |page: u64| {
        json!({
            "interval": "2026-01-14T12:00:00.000Z/2026-01-15T13:00:00.000Z",
            "order": "asc",
            "orderBy": "conversationStart",
            "segmentFilters":
                [{ "type": "and", "predicates": [matches("mediaType", "message"), matches("messageType", "open")] }],
            "paging": { "pageSize": 100, "pageNumber": page },
        })
    };
    assert_eq!(*queries, [query(1), query(2)]);
    let full = self::log(
        [page(1, &ids[..100], 100)]
            .into_iter()
            .chain(ids.iter().map(|id| conversation(id, &[]))),
    );
    assert_eq!(read_all(&full).await.expect("read"), []);
    assert_eq!(
        full.api.queries.lock().expect("not poisoned").len(),
        1,
        "there is no page behind the hundredth"
    );
}

#[tokio::test]
async fn only_messages_of_the_window_are_looked_at() {
    let messages = [
        listed("before", "failed", "2026-01-15T11:59:59.999Z"),
        listed("first", "failed", NOON),
        listed("last", "failed", "2026-01-15T12:59:59.999Z"),
        listed("after", "failed", "2026-01-15T13:00:00.000Z"),
        json!({ "messageId": "without-a-time", "messageStatus": "failed" }),
    ];
    let mut answers = vec![page(1, &["c1"], 1), conversation("c1", &messages)];
    answers
        .extend(["first", "last", "without-a-time"].map(|id| details(id, &normalized(id, "i1"))));
    assert_eq!(read_all(&log(answers)).await.expect("read").len(), 3);
}

#[tokio::test]
async fn a_conversation_that_was_over_before_is_not_looked_at() {
    let over = json!({ "conversationId": "over", "conversationEnd": "2026-01-15T11:59:59.000Z" });
    let just =
        json!({ "conversationId": "just", "conversationEnd": NOON, "conversationStart": NOON });
    let to_come =
        json!({ "conversationId": "to-come", "conversationStart": "2026-01-15T13:00:00.000Z" });
    let answer = json!({ "conversations": [over, just, to_come], "totalHits": 3 });
    let messages = conversation("just", &[listed("m1", "failed", NOON)]);
    let answers = [
        (format!("{QUERY} 1"), answer),
        messages,
        details("m1", &normalized("m1", "i1")),
    ];
    assert_eq!(
        read_all(&log(answers)).await.expect("read").len(),
        1,
        "one that ended with its beginning is"
    );
}

#[tokio::test]
async fn a_message_that_two_participants_list_is_one() {
    let message = listed("m1", "failed", NOON);
    let answers = [
        page(1, &["c1"], 1),
        conversation("c1", &[message.clone(), message]),
        details("m1", &normalized("m1", "i1")),
    ];
    assert_eq!(read_all(&log(answers)).await.expect("read").len(), 1);
}

#[tokio::test]
async fn messages_of_other_integrations_are_skipped() {
    let mut inbound = details("m2", &normalized("m2", "i1"));
    inbound.1["direction"] = json!("inbound");
    let answers = [
        page(1, &["c1"], 1),
        conversation(
            "c1",
            &[listed("m1", "failed", NOON), listed("m2", "failed", NOON)],
        ),
        details("m1", &normalized("m1", "i2")),
        inbound,
    ];
    let entries = read_all(&log(answers)).await.expect("read");
    assert!(
        matches!(entries[..], [Entry::Skipped(_), Entry::Skipped(_)]),
        "{entries:?}"
    );
}

#[tokio::test]
async fn unreadable_answer_is_kept_whole() {
    let mut nameless = normalized("m2", "i1");
    nameless["id"] = json!(null);
    let strange = json!({ "messageId": 7, "messageStatus": "failed" });
    let answers = [
        (
            format!("{QUERY} 1"),
            json!({ "conversations": [{ "conversationId": "c1" }, { "strange": 1 }], "totalHits": 2 }),
        ),
        conversation(
            "c1",
            &[
                listed("m1", "failed", NOON),
                listed("m2", "failed", NOON),
                strange.clone(),
            ],
        ),
        details("m1", &json!(null)),
        details("m2", &nameless),
    ];
    let whole = [
        json!({ "strange": 1 }),
        details("m1", &json!(null)).1,
        details("m2", &nameless).1,
        strange,
    ];
    let entries = read_all(&log(answers)).await.expect("read");
    assert_eq!(entries.len(), whole.len());
    for (entry, whole) in entries.iter().zip(whole) {
        let Entry::Unreadable(unreadable) = entry else {
            panic!("{entry:?}")
        };
        assert_eq!(unreadable.whole, whole.to_string());
    }
}

#[tokio::test]
async fn no_error_is_an_empty_list() {
    for answer in [
        json!({}),
        json!([]),
        json!({ "totalHits": 3 }),
        json!({ "conversations": [] }),
        json!({ "conversations": [], "totalHits": 1 }),
    ] {
        let error = read_all(&log([(format!("{QUERY} 1"), answer.clone())]))
            .await
            .expect_err("refused");
        assert!(
            matches!(error, DeliveryLogError::Failed(_)),
            "{answer}: {error}"
        );
    }
    let nothing = [(format!("{QUERY} 1"), json!({ "totalHits": 0 }))];
    assert_eq!(
        read_all(&log(nothing)).await.expect("read"),
        [],
        "Genesys Cloud leaves out what is empty"
    );
}

#[tokio::test]
async fn a_conversation_that_cannot_be_had_is_kept_and_holds_up_no_other() {
    let strange = json!({ "id": "c1", "participants": "none" });
    let answers = [
        page(1, &["c1", "gone", "c2"], 3),
        (
            "/api/v2/conversations/messages/c1".to_owned(),
            strange.clone(),
        ),
        conversation(
            "c2",
            &[listed("gone", "failed", NOON), listed("m1", "failed", NOON)],
        ),
        details("m1", &normalized("m1", "i1")),
    ];
    let entries = read_all(&log(answers)).await.expect("read");
    let [
        Entry::Unreadable(one),
        Entry::Unreadable(two),
        Entry::Unreadable(three),
        Entry::Failed(_),
    ] = &entries[..]
    else {
        panic!("{entries:?}")
    };
    let gone = json!({ "conversationId": "gone" });
    let wholes = [&one.whole, &two.whole, &three.whole]
        .map(|whole| serde_json::from_str::<Value>(whole).expect("JSON"));
    assert_eq!(wholes, [strange, gone, listed("gone", "failed", NOON)]);
    assert!(two.problem.contains("too large"), "{}", two.problem);
}

#[tokio::test]
async fn item_that_may_come_later_is_unavailable() {
    let withheld = conversation(
        "c1",
        &[
            listed("withheld", "failed", NOON),
            listed("m1", "failed", NOON),
        ],
    );
    let answers = [
        page(1, &["withheld", "c1"], 2),
        withheld,
        details("m1", &normalized("m1", "i1")),
    ];
    let entries = read_all(&log(answers)).await.expect("read");
    assert!(
        matches!(
            entries[..],
            [
                Entry::Unavailable(_),
                Entry::Unavailable(_),
                Entry::Failed(_)
            ]
        ),
        "{entries:?}"
    );
}

#[tokio::test]
async fn an_api_that_has_no_conversation_at_all_is_an_error() {
    let gone: Vec<String> = (0..20).map(|number| format!("gone-{number}")).collect();
    let gone: Vec<&str> = gone.iter().map(String::as_str).collect();
    let error = read_all(&log([page(1, &gone, 20)]))
        .await
        .expect_err("refused");
    assert!(
        error.to_string().contains("10 conversations in a row"),
        "{error}"
    );
    let in_between: Vec<&str> = gone[..9]
        .iter()
        .chain(&["c1"])
        .chain(&gone[9..18])
        .copied()
        .collect();
    let entries = read_all(&log([page(1, &in_between, 19), conversation("c1", &[])]))
        .await
        .expect("read");
    assert_eq!(entries.len(), 18, "not in a row");
}

/// A run that was cut short anywhere goes on with the next conversation, and asks for none twice.
#[tokio::test]
async fn a_window_is_resumed_with_the_next_conversation() {
    let ids: Vec<String> = (0..150).map(|number| format!("c{number}")).collect();
    let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
    let conversations = ids.iter().map(|id| conversation(id, &[]));
    let log = log([page(1, &ids[..100], 150), page(2, &ids[100..], 150)]
        .into_iter()
        .chain(conversations));
    let window = Window {
        from: time(NOON),
        to: time("2026-01-15T13:00:00Z"),
    };
    let (mut place, mut calls) = (Place::default(), 0);
    while let Some(next) = log
        .read(window, place, Instant::now())
        .await
        .expect("read")
        .next
    {
        let stored = serde_json::to_string(&log.resume(next).expect("a place")).expect("written");
        place = serde_json::from_str(&stored).expect("read");
        calls += 1;
    }
    assert_eq!(calls + 1, 2 + 150);
}

#[tokio::test]
async fn pages_that_have_shifted_and_other_lists_are_read_anew() {
    let ids: Vec<String> = (0..100).map(|number| format!("c{number}")).collect();
    let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
    let window = Window {
        from: time(NOON),
        to: time("2026-01-15T13:00:00Z"),
    };
    let conversations = || ids.iter().map(|id| conversation(id, &[]));
    let before = log([page(1, &ids, 150)].into_iter().chain(conversations()));
    let mut place = Place::default();
    for _ in 0..101 {
        place = before
            .read(window, place, Instant::now())
            .await
            .expect("read")
            .next
            .expect("more");
    }
    assert_eq!((place.page, place.conversations.len()), (1, 0));
    let mut after = log([page(2, &["c149"], 149), page(1, &ids, 149)]);
    let again = after
        .read(window, place.clone(), Instant::now())
        .await
        .expect("read")
        .next
        .expect("more");
    assert_eq!((again.page, again.total), (0, 0));
    let shrinking = Place {
        is_second: true,
        ..place.clone()
    };
    let error = after
        .read(window, shrinking, Instant::now())
        .await
        .expect_err("it cannot be read");
    assert!(
        error.to_string().contains("of 150 conversations"),
        "{error}"
    );
    after.look_back = SignedDuration::from_hours(1);
    let again = after
        .read(window, place, Instant::now())
        .await
        .expect("read")
        .next
        .expect("more");
    assert_eq!(again.page, 1);
}

#[tokio::test]
async fn a_list_of_conversations_that_is_none_is_an_error_and_not_an_empty_list() {
    let twice = r#"{"conversations":[{"conversationId":"c1"}],"conversations":[],"totalHits":0}"#;
    let too_many = &json!({ "conversations": vec![0; 101], "totalHits": 101 }).to_string();
    for answer in [
        r#"{"conversations":"c1","totalHits":0}"#,
        r#"{"conversations":{},"totalHits":0}"#,
        twice,
        too_many,
    ] {
        let mut log = log([]);
        log.api
            .exact
            .insert(format!("{QUERY} 1"), answer.to_owned());
        let error = read_all(&log).await.expect_err(answer);
        assert!(matches!(error, DeliveryLogError::Failed(_)), "{error}");
    }
    for empty in [
        json!({ "totalHits": 0 }),
        json!({ "conversations": null, "totalHits": 0 }),
    ] {
        assert_eq!(
            read_all(&log([(format!("{QUERY} 1"), empty)]))
                .await
                .expect("read"),
            []
        );
    }
}

#[tokio::test]
async fn an_unreadable_listed_message_is_kept() {
    let odd = [
        json!("text"),
        json!(7),
        json!({ "messageId": "m1", "messageStatus": 7, "messageTime": NOON }),
    ];
    let none = [
        json!({ "messageId": "m2" }),
        json!({ "messageId": "m3", "messageStatus": null }),
    ];
    let earlier =
        json!({ "messageId": "m4", "messageStatus": 7, "messageTime": "2026-01-15T11:59:59Z" });
    let listed: Vec<_> = odd.iter().chain(&none).chain([&earlier]).cloned().collect();
    let entries = read_all(&log([page(1, &["c1"], 1), conversation("c1", &listed)]))
        .await
        .expect("read");
    let whole = |entry: &Entry| match entry {
        Entry::Unreadable(unreadable) => unreadable.whole.clone(),
        other => panic!("{other:?}"),
    };
    assert_eq!(
        entries.iter().map(whole).collect::<Vec<_>>(),
        odd.map(|message| message.to_string())
    );
}

/// Answers of a few hundred kilobytes that would be a hundred thousand dead letters.
#[tokio::test]
async fn a_flood_of_strange_messages_is_withheld_and_hides_no_other() {
    let mut listed_messages = vec![json!(0); MOST_MESSAGES - 1];
    listed_messages.push(listed("m1", "failed", NOON));
    let answers = [
        page(1, &["flood", "c1"], 2),
        conversation("flood", &vec![json!(0); 300_000]),
        conversation("c1", &listed_messages),
        details("m1", &normalized("m1", "i1")),
    ];
    let entries = read_all(&log(answers)).await.expect("read");
    let count = |is: fn(&Entry) -> bool| entries.iter().filter(|entry| is(entry)).count();
    let unreadable = count(|entry| matches!(entry, Entry::Unreadable(_)));
    let withheld = count(|entry| matches!(entry, Entry::Unavailable(_)));
    let failed = count(|entry| matches!(entry, Entry::Failed(_)));
    assert_eq!(
        (unreadable, withheld, failed),
        (1 + MOST_NOT_UNDERSTOOD, 1, 1)
    );
}

#[tokio::test]
async fn a_byte_order_mark_hides_no_message() {
    let mut log = log([page(1, &["c1"], 1), details("m1", &normalized("m1", "i1"))]);
    let (path, answer) = conversation("c1", &[listed("m1", "failed", NOON)]);
    log.api.exact.insert(path, format!("\u{FEFF}{answer}"));
    assert!(matches!(
        &read_all(&log).await.expect("read")[..],
        [Entry::Failed(_)]
    ));
}

#[tokio::test]
async fn a_place_that_no_run_has_written_ends_no_process() {
    let place = json!({ "of": "", "page": u64::MAX, "total": u64::MAX, "conversations": ["gone"], "gone": u32::MAX, "is_anew": true });
    let log = log([page(u64::MAX, &[], 0)]);
    let window = Window {
        from: time(NOON),
        to: time("2026-01-15T13:00:00Z"),
    };
    let of = format!(
        "{:?} {:?} {}",
        log.integration_ids, log.statuses, log.look_back
    );
    for conversations in [json!(["gone"]), json!(["withheld"]), json!([])] {
        let mut place = place.clone();
        (place["of"], place["conversations"]) = (json!(of), conversations);
        let _ = log
            .read(
                window,
                serde_json::from_value(place).expect("a place"),
                Instant::now(),
            )
            .await;
    }
}
